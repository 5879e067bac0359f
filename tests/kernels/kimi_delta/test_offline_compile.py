"""Every kernel compiles for Hopper as it is launched: no GPU is needed to see registers, spills and shared memory."""

from collections.abc import Callable
from typing import Any

import pytest

SPILLED, SPILLED_WHERE_STEEP = 64, 512
"""Bytes a thread; more in the kernels of steep chunks, which work on several sizes of blocks."""


@pytest.mark.parametrize("size", [64, 128])
def test_kernels_fit_hopper(hopper: Callable[..., list[dict[str, Any]]], size: int) -> None:
    kernels = hopper("kimi_delta", ["bfloat16", size, size], spilled=SPILLED_WHERE_STEEP)
    assert len({kernel["kernel"] for kernel in kernels}) == 11
    gentle = [kernel for kernel in kernels if not kernel["kernel"].startswith("steep")]
    assert all(kernel["spilled"] <= SPILLED for kernel in gentle), gentle
    # the tensor cores are reached by wgmma, not by the slower mma
    assert all(kernel["wgmma"] for kernel in kernels if kernel["kernel"] == "inputs_backward_kernel")
