"""Tile sizes of the Triton kernels: one choice for each kernel, head size and dtype; nothing is tuned at run time."""

import torch

from hybridsearch.kernels.gated_delta.tiles import DTYPES, Tile, chunk, largest_key

__all__ = ["DTYPES", "NEAR", "VALUES", "Tile", "chunk", "largest_key", "padded_sizes", "tile"]

NEAR = {torch.bfloat16: (3, -10.0), torch.float32: (2, -16.0)}
"""Log2 of the tokens that the smallest blocks have to their border, and the log decay below which one counts as this:
what it lets through, exp(-10) = 5e-5 or exp(-16) = 1e-7, is far below what the dtype rounds off, and its eight or four
fold, exp(80) or exp(64), far below the largest float32."""

VALUES = {32: (32, 128), 64: (32, 64), 128: (128,)}
"""Of bfloat16 keys of each size: the values of a head that the kernels were checked with on a GPU."""

# Columns are key columns of "pairs", "solve", "inputs_backward", value columns of the others. Keys: largest key size.
BFLOAT16 = {
    "pairs": {32: Tile(32, 2, 1), 128: Tile(32, 4, 1)},
    "solve": {32: Tile(32, 2, 1), 128: Tile(64, 4, 1)},
    "output": {32: Tile(32, 2, 3), 64: Tile(32, 4, 3), 128: Tile(64, 4, 3)},
    "segment": {32: Tile(32, 2, 3), 128: Tile(64, 4, 3)},
    "join": {64: Tile(32, 4, 1), 128: Tile(16, 8, 1)},
    "errors_backward": {32: Tile(32, 2, 3), 64: Tile(32, 4, 3), 128: Tile(64, 4, 3)},
    "pairs_backward": {32: Tile(0, 2, 1), 128: Tile(0, 4, 1)},
    "inputs_backward": {32: Tile(32, 2, 1), 128: Tile(32, 4, 1)},
}
# Three tf32 products for one: little fits in registers. So chunks are short, sizes end at 64 and values are as keys.
FLOAT32 = {
    "pairs": {64: Tile(64, 4, 1)},
    "solve": {64: Tile(64, 4, 1)},
    "output": {32: Tile(16, 4, 2), 64: Tile(64, 4, 2)},
    "segment": {64: Tile(32, 4, 2)},
    "join": {64: Tile(32, 4, 1)},
    "errors_backward": {32: Tile(16, 4, 2), 64: Tile(32, 4, 2)},
    "pairs_backward": {64: Tile(0, 4, 1)},
    "inputs_backward": {64: Tile(32, 4, 1)},
}


def padded_sizes(key_size: int, value_size: int, dtype: torch.dtype) -> tuple[int, int]:
    """The key size, and the values of one head, that the kernels take.

    Keys and values are filled up with zeros, which change nothing; a head with more values is split into several.
    """
    key_size = 1 << (key_size - 1).bit_length()
    if dtype == torch.float32:
        return max(16, key_size), max(16, key_size)
    key_size = max(32, key_size)
    return key_size, next((width for width in VALUES[key_size] if value_size <= width), VALUES[key_size][-1])


def tile(kernel: str, key_size: int, value_size: int, dtype: torch.dtype) -> Tile:
    """The tile of a kernel for sizes from `padded_sizes`; its columns divide them."""
    sizes = (FLOAT32 if dtype == torch.float32 else BFLOAT16)[kernel]
    columns, warps, stages = sizes[min(size for size in sizes if key_size <= size)]
    if kernel == "segment":
        columns = min(columns, key_size, value_size)
    else:
        columns = min(columns, key_size if kernel in ("pairs", "solve", "inputs_backward") else value_size)
    return Tile(columns, warps, stages)
