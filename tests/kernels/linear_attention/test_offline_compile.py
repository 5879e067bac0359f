"""Every kernel compiles for Hopper as it is launched: no GPU is needed to see registers, spills and shared memory."""

from collections.abc import Callable
from itertools import product
from typing import Any

import pytest
import torch

from hybridsearch.kernels.linear_attention.triton_tiles import largest_value, padded_sizes

DTYPES = {"bfloat16": torch.bfloat16, "float32": torch.float32}
SIZES = (16, 32, 64, 128)
SERVED = sorted(
    (name, *padded_sizes(key_size, min(value_size, largest_value(dtype)), dtype))
    for name, dtype in DTYPES.items()
    for key_size, value_size in product(SIZES, SIZES)
)
"""Every dtype, key and value size that the kernels are launched with."""


CASES = [(*served, vector) for served in dict.fromkeys(SERVED) for vector in (False, True)]


@pytest.mark.parametrize("case", CASES, ids=str)
def test_kernels_fit_hopper(hopper: Callable[..., list[dict[str, Any]]], case: tuple[str, int, int, bool]) -> None:
    kernels = hopper(list(case))
    assert len({kernel["kernel"] for kernel in kernels}) == 7
    # no two sums were taken for one
    assert not [kernel for kernel in kernels if kernel["merged"] > 0]
    # the tensor cores are reached by wgmma, not by the slower mma
    if case[0] == "bfloat16" and case[1] >= 64:
        assert all(kernel["wgmma"] for kernel in kernels if kernel["kernel"].endswith("inputs_backward_kernel"))
