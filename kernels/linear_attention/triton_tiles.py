"""Tile sizes of the Triton kernels: one choice for each kernel, head size and dtype; nothing is tuned at run time."""

import torch

from hybridsearch.kernels.gated_delta.tiles import Tile

CHUNK = 64
"""Tokens that are worked on together."""
DTYPES = (torch.bfloat16, torch.float32)
LARGEST_SIZE = 128
"""Of a key, and of a value that is not split."""

# Columns are key columns of "inputs_backward" and "channel_inputs_backward", value columns of the others.
# Keys: the largest key size the choice serves, from 64 on.
BFLOAT16 = {
    "prepare": {64: Tile(64, 4, 1), 128: Tile(128, 8, 1)},
    "segment": {64: Tile(64, 4, 3), 128: Tile(64, 4, 3)},
    "output": {64: Tile(64, 4, 3), 128: Tile(64, 4, 2)},
    "join": {64: Tile(8, 4, 1), 128: Tile(8, 4, 1)},
    "channel_output": {64: Tile(64, 4, 3), 128: Tile(64, 4, 3)},
    "values_backward": {64: Tile(64, 4, 3), 128: Tile(64, 4, 2)},
    "channel_values_backward": {64: Tile(64, 4, 3), 128: Tile(64, 4, 3)},
    "inputs_backward": {64: Tile(64, 4, 1), 128: Tile(64, 4, 2)},
    "channel_inputs_backward": {64: Tile(64, 4, 1), 128: Tile(64, 4, 1)},
}
# For float32 and for small heads: two warps, which multiply without warp group products. Those read wild addresses of
# shared memory where tiles are narrow (Triton 3.6 and 3.7 on Hopper, its issue 11366).
NARROW = {
    "prepare": Tile(128, 2, 1),
    "segment": Tile(32, 2, 1),
    "output": Tile(32, 2, 1),
    "join": Tile(8, 4, 1),
    "channel_output": Tile(32, 2, 1),
    "values_backward": Tile(32, 2, 1),
    "channel_values_backward": Tile(32, 2, 1),
    "inputs_backward": Tile(16, 2, 1),
    "channel_inputs_backward": Tile(16, 2, 1),
}


def tile(kernel: str, key_size: int, value_size: int, dtype: torch.dtype) -> Tile:
    """The tile of a kernel; its columns divide `value_size` (padded: 16, 32 or a multiple of 64) or the key size."""
    chosen = NARROW[kernel]
    if dtype == torch.bfloat16 and key_size >= 64 and value_size >= 64:
        sizes = BFLOAT16[kernel]
        chosen = sizes[min(size for size in sizes if key_size <= size)]
    size = key_size if kernel.endswith("inputs_backward") else value_size
    columns = chosen.columns
    while size % columns:
        columns //= 2
    return chosen._replace(columns=columns)


def padded_size(size: int) -> int:
    """The power of two, at least 16, that holds a key or value; padding with zeros changes nothing."""
    return max(16, 1 << (size - 1).bit_length())
