"""Decides what to try next and what to stop. Knows no workers, no store, no torch."""
