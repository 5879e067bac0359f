"""Dominance, crowding and hypervolume over plain arrays. Every objective is minimised here."""
