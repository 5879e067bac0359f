"""Tile sizes of the Triton kernels; nothing is tuned at run time."""

from typing import NamedTuple

import torch

DTYPES = (torch.bfloat16, torch.float16, torch.float32)


class Tile(NamedTuple):
    """How a kernel runs."""

    columns: int
    warps: int


# Keys: the largest vocabulary that the choice serves.
TILES = {1024: Tile(1024, 2), 2048: Tile(2048, 4), 1 << 62: Tile(4096, 4)}


def tile(columns: int) -> Tile:
    """The tile of both kernels."""
    return TILES[min(size for size in TILES if columns <= size)]
