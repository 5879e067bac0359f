"""The search loop between the deciders, the workers and the store."""
