"""Tile sizes of the Triton kernels: one choice for each kernel, head size and dtype; nothing is tuned at run time."""

import torch

from hybridsearch.kernels.gated_delta.tiles import DTYPES, Tile, chunk, largest_key, padded_sizes

__all__ = ["DTYPES", "NEAR", "Tile", "chunk", "largest_key", "padded_sizes", "tile"]

NEAR = {torch.bfloat16: (3, -10.0), torch.float32: (2, -16.0)}
"""Log2 of the tokens that the smallest blocks have to their border, and the log decay below which one counts as this:
what it lets through, exp(-10) = 5e-5 or exp(-16) = 1e-7, is far below what the dtype rounds off, and its eight or four
fold, exp(80) or exp(64), far below the largest float32."""

KEY_TILED = ("pairs", "solve", "inputs_backward", "steep_inputs_backward")
"""Kernels whose columns are key columns; those of the others are value columns."""

# Keys: the largest key size that the choice serves. Both kernels of "inputs_backward" have its columns.
BFLOAT16 = {
    "pairs": {128: Tile(32, 4, 1)},
    "solve": {128: Tile(64, 4, 1)},
    "output": {64: Tile(32, 4, 3), 128: Tile(64, 4, 2)},
    "segment": {128: Tile(64, 4, 3)},
    "join": {64: Tile(32, 4, 1), 128: Tile(16, 8, 1)},
    "errors_backward": {64: Tile(32, 4, 3), 128: Tile(64, 4, 3)},
    "pairs_backward": {128: Tile(0, 4, 1)},
    "inputs_backward": {128: Tile(32, 4, 1)},
    "steep_inputs_backward": {128: Tile(32, 8, 1)},
}
# Three tf32 products for one: little fits in registers. So chunks are short, sizes end at 64 and values are as keys.
FLOAT32 = {
    "pairs": {64: Tile(64, 4, 1)},
    "solve": {64: Tile(64, 4, 1)},
    "output": {32: Tile(16, 4, 2), 64: Tile(64, 4, 2)},
    "segment": {16: Tile(16, 4, 1), 64: Tile(32, 4, 2)},
    "join": {64: Tile(32, 4, 1)},
    "errors_backward": {32: Tile(16, 4, 3), 64: Tile(32, 4, 2)},
    "pairs_backward": {64: Tile(0, 4, 1)},
    "inputs_backward": {32: Tile(16, 4, 1), 64: Tile(16, 8, 1)},
    "steep_inputs_backward": {64: Tile(16, 4, 1)},
}


def tile(kernel: str, key_size: int, value_size: int, dtype: torch.dtype) -> Tile:
    """The tile of a kernel for sizes from `padded_sizes`; its columns divide them."""
    sizes = (FLOAT32 if dtype == torch.float32 else BFLOAT16)[kernel]
    columns, warps, stages = sizes[min(size for size in sizes if key_size <= size)]
    if kernel == "segment":
        columns = min(columns, key_size, value_size)
    else:
        columns = min(columns, key_size if kernel in KEY_TILED else value_size)
    return Tile(columns, warps, stages)
