"""The operations that `benchmarks/kernels.py` times; one joins by its line here."""

from collections.abc import Callable

from kernel_cases import (
    cross_entropy,
    gated_delta,
    gated_scan,
    kimi_delta,
    linear_attention,
    norms,
    short_conv,
    sliding_window,
    token_routing,
)
from kernel_cases.case import SHAPES, STEPS, Operation, Shape

OPERATIONS: dict[str, tuple[Callable[[Shape], Operation], tuple[Shape, ...]]] = {
    "gated_delta_rule": (gated_delta.gated_delta_rule, SHAPES),
    "delta_rule": (gated_delta.delta_rule, SHAPES),
    "gated_delta_step": (gated_delta.gated_delta_step, STEPS),
    "gated_linear_attention": (linear_attention.gated_linear_attention, SHAPES),
    "channel_linear_attention": (linear_attention.channel_linear_attention, SHAPES),
    "gated_linear_step": (linear_attention.gated_linear_step, STEPS),
    "channel_linear_step": (linear_attention.channel_linear_step, STEPS),
    "gated_scan": (gated_scan.gated_scan, SHAPES),
    "gated_scan_step": (gated_scan.gated_scan_step, STEPS),
    "kimi_delta_rule": (kimi_delta.kimi_delta_rule, SHAPES),
    "kimi_delta_step": (kimi_delta.kimi_delta_step, STEPS),
    "sliding_window_attention": (sliding_window.sliding_window_attention, SHAPES),
    "token_routed_attention": (token_routing.token_routed_attention, SHAPES),
    "short_conv": (short_conv.short_conv, SHAPES),
    "short_conv_step": (short_conv.short_conv_step, STEPS),
    "rms_norm": (norms.rms_norm, SHAPES),
    "unit_length": (norms.unit_length, SHAPES),
    "gated_rms_norm": (norms.gated_rms_norm, SHAPES),
    "mixed_rms_norm": (norms.mixed_rms_norm, SHAPES),
    "cross_entropy": (cross_entropy.cross_entropy, cross_entropy.ENTROPY_SHAPES),
}
