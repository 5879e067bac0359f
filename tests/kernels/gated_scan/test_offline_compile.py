"""Every kernel compiles for Hopper as it is launched: no GPU is needed to see registers and spills."""

from collections.abc import Callable
from typing import Any

import pytest

CASES = [["bfloat16", 64], ["float32", 64]]


@pytest.mark.parametrize("case", CASES, ids=str)
def test_kernels_fit_hopper(hopper: Callable[..., list[dict[str, Any]]], case: list[Any]) -> None:
    kernels = hopper(case)
    assert {kernel["kernel"] for kernel in kernels} == {"forward_kernel", "backward_kernel", "step_kernel"}
