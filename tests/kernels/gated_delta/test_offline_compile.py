"""Every kernel compiles for Hopper as it is launched: no GPU is needed to see registers, spills and shared memory."""

from collections.abc import Callable
from typing import Any

import pytest

SPILLED = 128
"""Bytes a thread: Triton 3.6 spills none anywhere, 3.7.1 up to 120 in one kernel (inputs_backward, K = V = 128)."""


@pytest.mark.parametrize("size", [64, 128])
def test_kernels_fit_hopper(hopper: Callable[..., list[dict[str, Any]]], size: int) -> None:
    kernels = hopper("gated_delta", ["bfloat16", size, size, True], spilled=SPILLED)
    assert len({kernel["kernel"] for kernel in kernels}) == 7
    # the tensor cores are reached by wgmma, not by the slower mma
    assert all(kernel["wgmma"] for kernel in kernels if kernel["kernel"] == "inputs_backward_kernel")
