"""Tile sizes of the Triton kernels: one choice for each kernel, head size and dtype; nothing is tuned at run time."""

from typing import NamedTuple

import torch

CHUNK = 64
LARGEST_KEY = 128
LARGEST_VALUE = 128
DTYPES = (torch.bfloat16, torch.float32)


class Tile(NamedTuple):
    """How one kernel runs."""

    columns: int
    """Value columns (of "inputs_backward": key columns) a program works on at a time."""
    warps: int
    stages: int
    """Tiles in flight of the software pipeline."""


# Keys: the largest key size the choice serves.
BFLOAT16 = {
    "prepare": {64: Tile(64, 4, 1), 128: Tile(64, 4, 1)},
    "output": {64: Tile(64, 4, 3), 128: Tile(64, 4, 3)},
    "segment": {64: Tile(64, 4, 3), 128: Tile(64, 4, 3)},
    "join": {64: Tile(32, 4, 1), 128: Tile(32, 8, 1)},
    "values_backward": {64: Tile(64, 4, 3), 128: Tile(64, 4, 3)},
    "inputs_backward": {64: Tile(32, 4, 1), 128: Tile(32, 4, 1)},
}
FLOAT32 = {
    "prepare": {64: Tile(64, 8, 1), 128: Tile(64, 8, 1)},
    "output": {64: Tile(32, 8, 1), 128: Tile(32, 8, 1)},
    "segment": {64: Tile(32, 8, 1), 128: Tile(32, 8, 1)},
    "join": {64: Tile(32, 4, 1), 128: Tile(32, 8, 1)},
    "values_backward": {64: Tile(32, 8, 1), 128: Tile(32, 8, 1)},
    "inputs_backward": {64: Tile(16, 8, 1), 128: Tile(16, 8, 1)},
}


def tile(kernel: str, key_size: int, value_size: int, dtype: torch.dtype) -> Tile:
    """The tile of a kernel; its columns divide `value_size`, a power of two."""
    sizes = (FLOAT32 if dtype == torch.float32 else BFLOAT16)[kernel]
    chosen = sizes[min(size for size in sizes if key_size <= size)]
    widest = {"segment": min(value_size, key_size), "inputs_backward": key_size}.get(kernel, value_size)
    return chosen._replace(columns=min(chosen.columns, widest))


def padded_key_size(size: int) -> int:
    """The power of two, at least 16, that holds a key; padding with zeros changes nothing."""
    return max(16, 1 << (size - 1).bit_length())


def padded_value_size(size: int) -> int:
    """A power of two from 16 to `LARGEST_VALUE`, or a multiple of it."""
    return padded_key_size(size) if size <= LARGEST_VALUE else -(-size // LARGEST_VALUE) * LARGEST_VALUE
