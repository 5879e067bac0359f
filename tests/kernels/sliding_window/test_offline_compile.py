"""Every kernel compiles for Hopper as it is launched: no GPU is needed to see registers, spills and shared memory."""

from collections.abc import Callable
from typing import Any

import pytest

SPILLED = {64: 0, 128: 48}
"""Bytes a thread, by head size: Triton 3.6 spills 28, 3.7.1 48 in the kernel of dK and dV, outside its inner loops."""


@pytest.mark.parametrize("size", SPILLED)
def test_kernels_fit_hopper(hopper: Callable[..., list[dict[str, Any]]], size: int) -> None:
    kernels = hopper("sliding_window", ["bfloat16", size, size], spilled=SPILLED[size])
    assert len({kernel["kernel"] for kernel in kernels}) == 3
    # the tensor cores are reached by wgmma, not by the slower mma
    assert all(kernel["wgmma"] for kernel in kernels)
