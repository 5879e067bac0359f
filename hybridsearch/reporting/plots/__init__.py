"""Figures of a study: interactive pages (plotly) and PNG pictures (matplotlib), drawn from the same series."""
