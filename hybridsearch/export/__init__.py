"""Taking an architecture out of a study: which one, as YAML that reads back exactly, and as a card for people."""
