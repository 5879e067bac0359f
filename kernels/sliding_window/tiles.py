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


# Keys: the largest head size that the choice serves.
BFLOAT16 = {
    "forward": {64: Tile(64, 64, 4, 3), 128: Tile(64, 64, 4, 3)},
    "queries_backward": {64: Tile(64, 64, 4, 3), 128: Tile(64, 64, 4, 3)},
    "keys_backward": {64: Tile(64, 64, 4, 2), 128: Tile(64, 64, 4, 2)},
}
# Two warps multiply without warp group products, which read wild addresses of shared memory where tiles are narrow
# (Triton 3.6 and 3.7 on Hopper, its issue 11366).
FLOAT32 = Tile(32, 32, 2, 1)


def tile(kernel: str, key_size: int, value_size: int, dtype: torch.dtype) -> Tile:
    """The tile of a kernel for padded sizes."""
    if dtype == torch.float32:
        return FLOAT32
    if min(key_size, value_size) < 64:
        return Tile(64, 64, 2, 2)
    sizes = BFLOAT16[kernel]
    return sizes[min(size for size in sizes if max(key_size, value_size) <= size)]


def reads_operands_by_head(key_size: int, value_size: int, dtype: torch.dtype) -> bool:
    """Whether "keys_backward" multiplies by warp groups, which read left operands in shared memory."""
    return dtype == torch.bfloat16 and min(key_size, value_size) >= 64


def padded_size(size: int) -> int:
    """The power of two, at least 16, that holds a key or value; padding with zeros changes nothing."""
    return max(16, 1 << (size - 1).bit_length())
