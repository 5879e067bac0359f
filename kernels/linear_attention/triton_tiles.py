"""Tile sizes of the Triton kernels: one choice for each kernel, head size and dtype; nothing is tuned at run time."""

from functools import cache

import torch

from hybridsearch.kernels.gated_delta.tiles import Tile

DTYPES = (torch.bfloat16, torch.float32)
LARGEST_KEY = 128

# Columns are key columns of "inputs_backward" and "channel_inputs_backward", value columns of the others.
# Keys: the largest key size the choice serves. Small heads have short chunks: with tiles of fewer than 64 rows their
# products are no warp group products, which read wild addresses of shared memory where tiles are narrow (Triton 3.6 and
# 3.7 on Hopper, its issue 11366).
BFLOAT16 = {
    "prepare": {32: Tile(32, 2, 1), 64: Tile(64, 4, 1), 128: Tile(128, 8, 1)},
    "segment": {32: Tile(32, 2, 3), 128: Tile(64, 4, 3)},
    "output": {32: Tile(32, 2, 3), 64: Tile(64, 4, 3), 128: Tile(64, 4, 2)},
    "join": {128: Tile(8, 4, 1)},
    "channel_output": {32: Tile(32, 2, 3), 128: Tile(64, 4, 3)},
    "values_backward": {32: Tile(32, 2, 3), 64: Tile(64, 4, 3), 128: Tile(64, 4, 2)},
    "channel_values_backward": {32: Tile(32, 2, 3), 128: Tile(64, 4, 3)},
    "inputs_backward": {16: Tile(16, 1, 1), 32: Tile(32, 2, 1), 64: Tile(64, 4, 1), 128: Tile(32, 4, 3)},
    "channel_inputs_backward": {16: Tile(16, 1, 1), 32: Tile(32, 2, 1), 128: Tile(64, 4, 1)},
}
# Three tf32 products for one: little fits in registers. So chunks are short, and values are as keys and at most 64.
FLOAT32 = {
    "prepare": {128: Tile(128, 4, 1)},
    "segment": {128: Tile(32, 4, 2)},
    "output": {32: Tile(16, 4, 2), 64: Tile(32, 4, 2), 128: Tile(16, 4, 2)},
    "join": {128: Tile(8, 4, 1)},
    "channel_output": {128: Tile(16, 4, 2)},
    "values_backward": {32: Tile(16, 4, 2), 64: Tile(32, 4, 2), 128: Tile(16, 4, 2)},
    "channel_values_backward": {128: Tile(16, 4, 2)},
    "inputs_backward": {128: Tile(16, 2, 1)},
    "channel_inputs_backward": {32: Tile(16, 2, 1), 128: Tile(32, 4, 1)},
}


def chunk(key_size: int, dtype: torch.dtype) -> int:
    """Tokens that are worked on together; `key_size` is padded."""
    if dtype == torch.float32:
        return 16
    return 32 if key_size <= 32 else 64


def top_level(length: int) -> int:
    """Log2 of the tokens that a chunk of `length` tokens, a power of two, taken as one block has to its border."""
    return length.bit_length() - 2


def largest_value(dtype: torch.dtype) -> int:
    """The largest value size that is not split."""
    return 64 if dtype == torch.float32 else 128


def padded_sizes(key_size: int, value_size: int, dtype: torch.dtype) -> tuple[int, int]:
    """The key and value size that the kernels take: powers of two, filled up with zeros, which change nothing.

    Few pairs of sizes: small ones are alike, and beside a large one none is small.
    """
    if dtype == torch.float32:
        size = power_of_two(max(key_size, value_size))
        return size, min(size, largest_value(dtype))
    smallest = 64 if max(key_size, value_size) > 32 else max(key_size, value_size)
    return power_of_two(max(smallest, key_size)), power_of_two(max(smallest, value_size))


@cache
def tile(kernel: str, key_size: int, value_size: int, dtype: torch.dtype) -> Tile:
    """The tile of a kernel for sizes from `padded_sizes`; its columns divide them."""
    sizes = (FLOAT32 if dtype == torch.float32 else BFLOAT16)[kernel]
    chosen = sizes[min(size for size in sizes if key_size <= size)]
    size = key_size if kernel.endswith("inputs_backward") else value_size
    return chosen._replace(columns=min(chosen.columns, size))


def power_of_two(size: int) -> int:
    """The least that is at least `size` and 16."""
    return max(16, 1 << (size - 1).bit_length())
