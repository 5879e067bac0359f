"""Tile sizes of the gated scan's Triton kernels: one choice for each kernel and dtype; nothing is tuned at run time."""

from typing import NamedTuple

import torch

DTYPES = (torch.bfloat16, torch.float32)
PIECE = 8
"""Channels come in pieces of so many: 16 bytes of bfloat16, the widest load."""
MOST_SEGMENTS = 32
"""Parts that T is split into."""


class Tile(NamedTuple):
    """A tile of `lanes` runs of `run` tokens each, `columns` channels wide."""

    columns: int
    lanes: int
    run: int
    warps: int

    @property
    def tokens(self) -> int:
        """Tokens that a program works on at once."""
        return self.lanes * self.run


TILES = {
    torch.bfloat16: {"forward": Tile(32, 16, 8, 4), "backward": Tile(32, 16, 8, 4)},
    torch.float32: {"forward": Tile(32, 16, 8, 4), "backward": Tile(32, 16, 4, 4)},
}
"""Two programs of 4 warps fill the registers of a multiprocessor; a quarter of those holds what is being loaded."""


def tile(kernel: str, dtype: torch.dtype) -> Tile:
    """The tile of a kernel, "forward" or "backward"."""
    return TILES[dtype][kernel]
