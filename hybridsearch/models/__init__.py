"""An architecture as a PyTorch model: whole sequences for training, one token at a time for decoding."""
