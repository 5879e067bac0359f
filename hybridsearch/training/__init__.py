"""Training runs, scoring, and measured throughput."""
