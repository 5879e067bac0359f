"""Every kernel compiles for Hopper as it is launched: no GPU is needed to see registers, spills and shared memory."""

from collections.abc import Callable
from typing import Any

import pytest

SPILLED = {False: 24, True: 0}
"""Bytes a thread, by whether each channel has its decay: addresses that stand outside of the loops."""


@pytest.mark.parametrize("vector", [False, True], ids=["scalar", "vector"])
@pytest.mark.parametrize("size", [64, 128])
def test_kernels_fit_hopper(hopper: Callable[..., list[dict[str, Any]]], size: int, vector: bool) -> None:
    kernels = hopper("linear_attention", ["bfloat16", size, size, vector], spilled=SPILLED[vector])
    assert len({kernel["kernel"] for kernel in kernels}) == 7
    # the tensor cores are reached by wgmma, not by the slower mma
    assert all(kernel["wgmma"] for kernel in kernels if kernel["kernel"].endswith("inputs_backward_kernel"))
