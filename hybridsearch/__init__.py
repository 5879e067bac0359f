"""Search for hybrid linear/full-attention language models: recall against measured throughput."""

__version__ = "0.1.0"
