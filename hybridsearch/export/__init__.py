"""A found architecture as a file that others can use."""
