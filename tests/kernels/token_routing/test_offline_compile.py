"""Every kernel compiles for Hopper as it is launched: no GPU is needed to see registers, spills and shared memory."""

from collections.abc import Callable
from typing import Any

import pytest


@pytest.mark.parametrize(("key_size", "value_size"), [(64, 64), (64, 128), (128, 128)])
def test_kernels_fit_hopper(hopper: Callable[..., list[dict[str, Any]]], key_size: int, value_size: int) -> None:
    kernels = hopper("token_routing", [key_size, value_size, 64])
    assert len({kernel["kernel"] for kernel in kernels}) == 6
    # the tensor cores are reached by wgmma, not by the slower mma
    assert all(kernel["wgmma"] for kernel in kernels if "ward_kernel" in kernel["kernel"])


@pytest.mark.parametrize("key_size", [64, 128])
def test_the_tile_of_long_sequences_fits_hopper(hopper: Callable[..., list[dict[str, Any]]], key_size: int) -> None:
    # Held to 128 registers, so that two programs share a multiprocessor: 4226 us for 4647 at 65536 tokens.
    kernels = hopper("token_routing", [key_size, 128, 64, 16384])
    assert all(kernel["wgmma"] for kernel in kernels if "ward_kernel" in kernel["kernel"])


@pytest.mark.parametrize("chunk", [16, 128])
def test_other_chunks_fit_hopper(hopper: Callable[..., list[dict[str, Any]]], chunk: int) -> None:
    hopper("token_routing", [128, 128, chunk])
