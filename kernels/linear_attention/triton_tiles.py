"""Tile sizes of the Triton kernels: one choice for each kernel, head size and dtype; nothing is tuned at run time."""

import torch

from hybridsearch.kernels.gated_delta.tiles import Tile

# Keys: the largest key size the choice serves. "inputs_backward" counts key columns, the others value columns.
BFLOAT16 = {
    "prepare": {64: Tile(64, 4, 1), 128: Tile(128, 8, 1)},
    "segment": {64: Tile(64, 4, 3), 128: Tile(128, 8, 3)},
    "output": {64: Tile(64, 4, 3), 128: Tile(128, 8, 2)},
    "join": {64: Tile(8, 4, 1), 128: Tile(8, 4, 1)},
    "values_backward": {64: Tile(64, 4, 3), 128: Tile(128, 8, 2)},
    "inputs_backward": {64: Tile(64, 4, 1), 128: Tile(64, 8, 2)},
    "vector_inputs_backward": {64: Tile(32, 8, 1), 128: Tile(32, 8, 2)},
}
FLOAT32 = {
    "prepare": {64: Tile(64, 8, 1), 128: Tile(128, 8, 1)},
    "segment": {64: Tile(32, 8, 1), 128: Tile(32, 8, 1)},
    "output": {64: Tile(32, 8, 1), 128: Tile(32, 8, 1)},
    "join": {64: Tile(8, 4, 1), 128: Tile(8, 4, 1)},
    "values_backward": {64: Tile(32, 8, 1), 128: Tile(32, 8, 1)},
    "inputs_backward": {64: Tile(16, 8, 1), 128: Tile(16, 8, 1)},
    "vector_inputs_backward": {64: Tile(16, 8, 1), 128: Tile(16, 8, 1)},
}


def tile(kernel: str, key_size: int, value_size: int, dtype: torch.dtype) -> Tile:
    """The tile of a kernel; its columns divide `value_size` (padded: 16, 32 or a multiple of 64)."""
    sizes = (FLOAT32 if dtype == torch.float32 else BFLOAT16)[kernel]
    chosen = sizes[min(size for size in sizes if key_size <= size)]
    if kernel.endswith("inputs_backward"):
        return chosen._replace(columns=min(chosen.columns, key_size))
    columns = chosen.columns
    while value_size % columns:
        columns //= 2
    return chosen._replace(columns=columns)
