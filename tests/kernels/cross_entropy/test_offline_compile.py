"""Every kernel compiles for Hopper as it is launched, and spills no register: no GPU is needed to see it."""

from collections.abc import Callable
from typing import Any

CASES = [["bfloat16", 1000], ["bfloat16", 32000]]


def test_kernels_fit_hopper(hopper: Callable[..., list[dict[str, Any]]]) -> None:
    kernels = hopper(*CASES)
    assert len({kernel["kernel"] for kernel in kernels}) == 2
