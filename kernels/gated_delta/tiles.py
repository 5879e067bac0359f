"""Tile sizes of the Triton kernels: one choice for each kernel, head size and dtype; nothing is tuned at run time."""

from typing import NamedTuple

import torch

DTYPES = (torch.bfloat16, torch.float32)


class Tile(NamedTuple):
    """How one kernel runs."""

    columns: int
    """Value columns (of "inputs_backward": key columns) a program works on at a time."""
    warps: int
    stages: int
    """Tiles in flight of the software pipeline."""


# Keys: the largest key size that the choice serves.
BFLOAT16 = {
    "prepare": {128: Tile(0, 4, 1)},
    "output": {64: Tile(32, 4, 3), 128: Tile(64, 4, 3)},
    "segment": {128: Tile(64, 4, 3)},
    "join": {64: Tile(32, 4, 1), 128: Tile(16, 8, 1)},
    "values_backward": {64: Tile(32, 4, 3), 128: Tile(64, 4, 3)},
    "inputs_backward": {128: Tile(32, 4, 1)},
}
# Three tf32 products for one: little fits in registers. So chunks are short, sizes end at 64 and values are as keys.
FLOAT32 = {
    "prepare": {64: Tile(0, 4, 1)},
    "output": {32: Tile(16, 4, 2), 64: Tile(64, 4, 2)},
    "segment": {64: Tile(32, 4, 2)},
    "join": {64: Tile(32, 4, 1)},
    "values_backward": {32: Tile(16, 4, 2), 64: Tile(32, 4, 2)},
    "inputs_backward": {64: Tile(32, 4, 1)},
}


def chunk(dtype: torch.dtype) -> int:
    """Tokens that are worked on together."""
    return 16 if dtype == torch.float32 else 64


def largest_key(dtype: torch.dtype) -> int:
    """The largest key size."""
    return 64 if dtype == torch.float32 else 128


def padded_sizes(key_size: int, value_size: int, dtype: torch.dtype) -> tuple[int, int]:
    """The key size, and the values of one head, that the kernels take: powers of two.

    Keys and values are filled up with zeros, which change nothing; a head with more values is split into several.
    """
    if dtype == torch.float32:
        key_size = max(16, _power(key_size))
        return key_size, key_size
    return max(64, _power(key_size)), min(max(64, _power(value_size)), 128)


def tile(kernel: str, key_size: int, value_size: int, dtype: torch.dtype) -> Tile:
    """The tile of a kernel for sizes from `padded_sizes`; its columns divide them."""
    sizes = (FLOAT32 if dtype == torch.float32 else BFLOAT16)[kernel]
    columns, warps, stages = sizes[min(size for size in sizes if key_size <= size)]
    if kernel == "segment":
        columns = min(columns, key_size, value_size)
    elif kernel == "inputs_backward":
        columns = min(columns, key_size)
    else:
        columns = min(columns, value_size)
    return Tile(columns, warps, stages)


def _power(size: int) -> int:
    return 1 << (size - 1).bit_length()
