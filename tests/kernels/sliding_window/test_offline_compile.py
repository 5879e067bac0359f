"""Every kernel compiles for Hopper as it is launched, and spills no register: no GPU is needed to see it."""

from collections.abc import Callable
from typing import Any

import pytest

TILES = [
    ("bfloat16", 64, 64),
    ("bfloat16", 64, 128),
    ("bfloat16", 128, 64),
    ("bfloat16", 128, 128),
    ("float32", 32, 32),
    ("float32", 32, 64),
    ("float32", 64, 32),
    ("float32", 64, 64),
]
NARROWER = [("bfloat16", 40, 40), ("bfloat16", 96, 96)]
CASES = TILES + NARROWER


@pytest.mark.parametrize("case", TILES, ids=str)
def test_kernels_fit_hopper(hopper: Callable[..., list[dict[str, Any]]], case: tuple[str, int, int]) -> None:
    kernels = hopper(list(case))
    assert len({kernel["kernel"] for kernel in kernels}) == 3
    # the tensor cores are reached by wgmma, not by the slower mma
    assert case[0] == "float32" or all(kernel["wgmma"] for kernel in kernels)


@pytest.mark.parametrize(("case", "tile"), [(NARROWER[0], 64), (NARROWER[1], 128)], ids=str)
def test_other_sizes_take_the_same_kernels(
    hopper: Callable[..., list[dict[str, Any]]], case: tuple[str, int, int], tile: int
) -> None:
    """What is narrower than a tile is filled up by TMA."""
    ours, theirs = (
        [{name: value for name, value in kernel.items() if name != "case"} for kernel in hopper(found)]
        for found in (list(case), ["bfloat16", tile, tile])
    )
    assert len(ours) == 3
    assert ours == theirs
