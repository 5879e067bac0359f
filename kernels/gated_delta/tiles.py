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
    "join": {64: Tile(32, 4, 1), 128: Tile(32, 8, 1)},
    "values_backward": {64: Tile(32, 4, 3), 128: Tile(64, 4, 3)},
    "inputs_backward": {128: Tile(32, 4, 1)},
}
# Three tf32 products for one: little fits in registers, so chunks are short and sizes end at 64.
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


def largest_size(dtype: torch.dtype) -> int:
    """The largest key size, and the values of one head above which it is split."""
    return 64 if dtype == torch.float32 else 128


def tile(kernel: str, key_size: int, value_size: int, dtype: torch.dtype) -> Tile:
    """The tile of a kernel for sizes that are powers of two from 16 to `largest_size`; its columns divide them."""
    sizes = (FLOAT32 if dtype == torch.float32 else BFLOAT16)[kernel]
    chosen = sizes[min(size for size in sizes if key_size <= size)]
    widest = {"segment": min(value_size, key_size), "inputs_backward": key_size}.get(kernel, value_size)
    return chosen._replace(columns=min(chosen.columns, widest))


def padded_size(size: int, largest: int) -> int:
    """A power of two from 16 to `largest`, or a multiple of `largest`; padding with zeros changes nothing."""
    return max(16, 1 << (size - 1).bit_length()) if size <= largest else -(-size // largest) * largest
