"""The operations that `benchmarks/kernels.py` times; one joins by its line here."""

from collections.abc import Callable

from kernel_cases import gated_delta
from kernel_cases.case import SHAPES, STEPS, Operation, Shape

OPERATIONS: dict[str, tuple[Callable[[Shape], Operation], tuple[Shape, ...]]] = {
    "gated_delta_rule": (gated_delta.gated_delta_rule, SHAPES),
    "delta_rule": (gated_delta.delta_rule, SHAPES),
    "gated_delta_step": (gated_delta.gated_delta_step, STEPS),
}
