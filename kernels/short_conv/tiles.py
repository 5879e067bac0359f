"""Tile sizes of the Triton kernels; nothing is tuned at run time."""

from typing import NamedTuple

import torch

DTYPES = (torch.bfloat16, torch.float16, torch.float32)
WIDTHS = range(2, 9)

PROGRAMS = 1056
"""Of a backward pass, 8 a multiprocessor of a H100: each sums its runs' part of the weight's gradient."""


class Tile(NamedTuple):
    """How a kernel runs."""

    channels: int
    tokens: int
    """Of a run."""
    runs: int
    """Beside each other."""
    warps: int


FORWARD = Tile(256, 8, 4, 4)
BACKWARD = Tile(256, 8, 2, 4)
STEP = Tile(256, 1, 1, 2)
