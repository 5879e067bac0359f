"""Every kernel compiles for Hopper as it is launched: no GPU is needed to see registers, spills and shared memory."""

from collections.abc import Callable
from typing import Any

import pytest

SIZES = [[64, 64, 64], [64, 128, 64], [128, 128, 64]]
LONG = [[64, 128, 64, 16384], [128, 128, 64, 16384]]
OTHER_CHUNKS = [[128, 128, 16], [128, 128, 128]]
CASES = SIZES + LONG + OTHER_CHUNKS


@pytest.mark.parametrize("case", SIZES, ids=str)
def test_kernels_fit_hopper(hopper: Callable[..., list[dict[str, Any]]], case: list[int]) -> None:
    kernels = hopper(case)
    assert len({kernel["kernel"] for kernel in kernels}) == 6
    # the tensor cores are reached by wgmma, not by the slower mma
    assert all(kernel["wgmma"] for kernel in kernels if "ward_kernel" in kernel["kernel"])


@pytest.mark.parametrize("case", LONG, ids=str)
def test_the_tile_of_long_sequences_fits_hopper(hopper: Callable[..., list[dict[str, Any]]], case: list[int]) -> None:
    # Held to 128 registers, so that two programs share a multiprocessor: 4226 us for 4647 at 65536 tokens.
    kernels = hopper(case)
    assert all(kernel["wgmma"] for kernel in kernels if "ward_kernel" in kernel["kernel"])


@pytest.mark.parametrize("case", OTHER_CHUNKS, ids=str)
def test_other_chunks_fit_hopper(hopper: Callable[..., list[dict[str, Any]]], case: list[int]) -> None:
    assert len({kernel["kernel"] for kernel in hopper(case)}) == 6
