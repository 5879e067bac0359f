"""The kernel compiles for Hopper as it is launched, and spills no register: no GPU is needed to see it."""

from collections.abc import Callable
from typing import Any


def test_kernel_fits_hopper(hopper: Callable[..., list[dict[str, Any]]]) -> None:
    assert len(hopper("rotary", ["bfloat16", 64], ["bfloat16", 96])) == 2
