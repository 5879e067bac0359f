"""Tile sizes of the Triton kernels: one choice for each kernel, head size and dtype; nothing is tuned at run time."""

from typing import NamedTuple

import torch

DTYPES = (torch.bfloat16, torch.float32)
LARGEST_SIZE = 128
"""Of a key, and of a value that is not split."""
LARGEST_FLOAT32 = 64
"""Of a float32 key: three tf32 products for one, little fits in registers."""


class Tile(NamedTuple):
    """How one kernel runs; the rows of its own block are a multiple of those of the other."""

    rows: int
    """Queries ("keys_backward": keys) of a program."""
    columns: int
    """Keys ("keys_backward": queries) it meets at a time."""
    warps: int
    stages: int
    """Tiles in flight of the software pipeline."""
    registers: int | None = None
    """The most that a thread may have; none leaves it to the compiler."""


# Keys: the largest size of key and value that the choice serves. At 64 so few registers let one program more share a
# multiprocessor (8 x 2048 tokens, 8 heads, on a H200: forwards 52 us for 56, backwards 11 us less).
BFLOAT16 = {
    "forward": {64: Tile(64, 64, 4, 3, 128), 128: Tile(64, 64, 4, 3)},
    "queries_backward": {64: Tile(64, 64, 4, 3, 168), 128: Tile(64, 64, 4, 3)},
    "keys_backward": {128: Tile(64, 64, 4, 2)},
}
# Tiles of fewer than 64 rows are multiplied without warp group products, which read wild addresses of shared memory
# where tiles are narrow (Triton 3.6 and 3.7 on Hopper, its issue 11366).
FLOAT32 = {
    "forward": {32: Tile(32, 32, 2, 1), 64: Tile(32, 32, 4, 1)},
    "queries_backward": {32: Tile(32, 32, 2, 1), 64: Tile(16, 16, 4, 1)},
    "keys_backward": {32: Tile(32, 16, 4, 1), 64: Tile(16, 16, 4, 1)},
}


def tile(kernel: str, key_size: int, value_size: int, dtype: torch.dtype) -> Tile:
    """The tile of a kernel for sizes of its tiles."""
    sizes = (FLOAT32 if dtype == torch.float32 else BFLOAT16)[kernel]
    return sizes[min(size for size in sizes if max(key_size, value_size) <= size)]


def tile_size(size: int, dtype: torch.dtype) -> int:
    """Columns of the tile that holds a key or value; those behind its end load as zeros and are not stored."""
    least = 32 if dtype == torch.float32 else 64
    return max(least, 1 << (size - 1).bit_length())


def padded_size(size: int, dtype: torch.dtype) -> int:
    """The multiple of 16 bytes that holds a key or value, as TMA wants; padding with zeros changes nothing."""
    numbers = 16 // dtype.itemsize
    return -(-size // numbers) * numbers
