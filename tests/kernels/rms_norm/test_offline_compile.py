"""Every kernel compiles for Hopper as it is launched, and spills nothing: no GPU is needed to see it."""

from collections.abc import Callable
from typing import Any

CASES = [["bfloat16", 128], ["bfloat16", 2048], ["float32", 1024], ["bfloat16", 4096]]


def test_kernels_fit_hopper(hopper: Callable[..., list[dict[str, Any]]]) -> None:
    kernels = hopper(*CASES)
    assert len({kernel["kernel"] for kernel in kernels}) == 4
