"""Every kernel compiles for Hopper as it is launched: no GPU is needed to see registers and spills."""

from collections.abc import Callable
from typing import Any

import pytest


@pytest.mark.parametrize("element", ["bfloat16", "float32"])
def test_kernels_fit_hopper(hopper: Callable[..., list[dict[str, Any]]], element: str) -> None:
    kernels = hopper("gated_scan", [element, 64])
    assert {kernel["kernel"] for kernel in kernels} == {"forward_kernel", "backward_kernel", "step_kernel"}
