"""What an architecture is: a tree of mixers, its canonical form, and what it costs. No torch."""
