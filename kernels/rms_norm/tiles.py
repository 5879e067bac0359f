"""Tile sizes of the Triton kernels: by the size of a row; nothing is tuned at run time."""

from typing import NamedTuple

import torch

DTYPES = (torch.bfloat16, torch.float16, torch.float32)
LARGEST_SIZE = 16384
"""Of a row, which one program holds in registers."""

LARGEST_HEADS = 256
"""Where heads are told apart; tensors with more, and rows unevenly spaced, are copied."""
NUMBERS = 1024
"""Of a tile: 8 a thread, one load of 16 bytes."""
PROGRAMS = 1056
"""Of a backward pass over many rows, 8 a multiprocessor of a H100; each sums its rows' part of a weight's gradient."""


class Tile(NamedTuple):
    """How a kernel runs on rows of one size."""

    size: int
    """The row filled up to a power of two."""
    rows: int
    warps: int


def tile(size: int) -> Tile:
    """The tile of all kernels."""
    padded = 1 << (size - 1).bit_length()
    rows = max(1, NUMBERS // padded)
    return Tile(padded, rows, min(16, max(4, padded // 256)))
