"""Data that a proxy is trained and scored on."""
