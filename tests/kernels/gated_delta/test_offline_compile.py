"""Every kernel compiles for Hopper as it is launched: no GPU is needed to see registers, spills and shared memory."""

from collections.abc import Callable
from typing import Any

import pytest

CASES = [
    ("bfloat16", 64, 64, True),
    ("bfloat16", 64, 128, True),
    ("bfloat16", 128, 64, True),
    ("bfloat16", 128, 128, True),
    ("bfloat16", 64, 64, False),
    ("bfloat16", 128, 128, False),
    ("float32", 16, 16, True),
    ("float32", 32, 32, True),
    ("float32", 64, 64, True),
]


@pytest.mark.parametrize("case", CASES, ids=str)
def test_kernels_fit_hopper(hopper: Callable[..., list[dict[str, Any]]], case: tuple[str, int, int, bool]) -> None:
    kernels = hopper(list(case))
    assert len({kernel["kernel"] for kernel in kernels}) == 7
    backward = [kernel for kernel in kernels if kernel["kernel"].endswith("backward_kernel")]
    # no two sums were taken for one (16 multiplications are a thread's share of the smallest tile)
    assert all(kernel["merged"] < 16 for kernel in backward), backward
    # the tensor cores are reached by wgmma, not by the slower mma
    if case[0] == "bfloat16":
        assert all(kernel["wgmma"] for kernel in kernels if kernel["kernel"] == "inputs_backward_kernel")
