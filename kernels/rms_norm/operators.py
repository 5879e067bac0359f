"""The norms as operators of torch: `hybridsearch::norm`, `hybridsearch::norm_mix` and their backward passes.

One launch each; a backward pass with weights adds one sum. Opaque to torch.compile, usable in a CUDA graph: no host
waits for the device, and no size depends on data.
"""

from typing import Any

import torch
from torch import Tensor

from hybridsearch.kernels.registration import define, differentiate, on
from hybridsearch.kernels.rms_norm.tiles import PROGRAMS, tile
from hybridsearch.kernels.rms_norm.triton_norms import (
    mix_backward_kernel,
    mix_kernel,
    norm_backward_kernel,
    norm_kernel,
)

Gradients = tuple[Tensor, Tensor, Tensor]
MixGradients = tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]


def _norm(x: Tensor, weight: Tensor | None, gate: Tensor | None, gain: float, shift: float) -> Tensor:
    """weight x gain (sum x^2 + shift)^-1/2 SiLU(gate) in the dtype of x; x and gate [N, H, K], weight [K] or [H, K]."""
    y = x.new_empty(x.shape)
    rows, heads, size = x.shape
    chosen = tile(size)
    with on(x):
        norm_kernel[(-(-rows // chosen.rows), heads)](
            x, weight, gate, y, gain, shift, rows, size, *_strides(x, gate), _of_head(weight),
            S=chosen.size, R=chosen.rows, WEIGHTED=weight is not None, GATED=gate is not None, num_warps=chosen.warps,
        )  # fmt: skip
    return y


def _fake_norm(x: Tensor, weight: Tensor | None, gate: Tensor | None, gain: float, shift: float) -> Tensor:
    return x.new_empty(x.shape)


def _norm_backward(
    d_y: Tensor, x: Tensor, weight: Tensor | None, gate: Tensor | None, gain: float, shift: float
) -> Gradients:
    """Gradients of x, weight and gate; those of what is missing are empty."""
    d_x, _, d_gate = _fake_norm_backward(d_y, x, None, gate, gain, shift)
    rows, heads, size = x.shape
    chosen = tile(size)
    programs = _programs(rows, heads, chosen.rows)
    shares = x.new_empty((programs if weight is not None else 0, heads, size), dtype=torch.float32)
    with on(x):
        norm_backward_kernel[(programs, heads)](
            x, weight, gate, d_y.contiguous(), d_x, d_gate, shares, gain, shift, rows, size, *_strides(x, gate),
            _of_head(weight),
            S=chosen.size, R=chosen.rows, WEIGHTED=weight is not None, GATED=gate is not None, num_warps=chosen.warps,
        )  # fmt: skip
    if weight is None:
        return d_x, shares, d_gate
    return d_x, shares.sum((0, 1) if weight.dim() == 1 else 0).to(weight.dtype), d_gate


def _fake_norm_backward(
    d_y: Tensor, x: Tensor, weight: Tensor | None, gate: Tensor | None, gain: float, shift: float
) -> Gradients:
    d_weight = x.new_empty((0, *x.shape[1:]), dtype=torch.float32) if weight is None else weight.new_empty(weight.shape)
    return x.new_empty(x.shape), d_weight, x.new_empty((0,)) if gate is None else gate.new_empty(gate.shape)


def _norm_mix(
    first: Tensor,
    second: Tensor,
    first_weight: Tensor,
    second_weight: Tensor,
    share: Tensor | None,
    gate: Tensor | None,
    gain: float,
    shift: float,
) -> Tensor:
    """SiLU(gate) (share w1 n1 + (1 - share) w2 n2) in the dtype of the second; [N, H, K], share [N, H], weights [K]."""
    y = second.new_empty(second.shape)
    rows, heads, size = second.shape
    chosen = tile(size)
    with on(second):
        mix_kernel[(-(-rows // chosen.rows), heads)](
            first, second, first_weight, second_weight, share, gate, y, gain, shift, rows, size,
            *_strides(first, second, share, gate), S=chosen.size, R=chosen.rows,
            SHARED=share is not None, GATED=gate is not None, num_warps=chosen.warps,
        )  # fmt: skip
    return y


def _fake_norm_mix(
    first: Tensor,
    second: Tensor,
    first_weight: Tensor,
    second_weight: Tensor,
    share: Tensor | None,
    gate: Tensor | None,
    gain: float,
    shift: float,
) -> Tensor:
    return second.new_empty(second.shape)


def _norm_mix_backward(
    d_y: Tensor,
    first: Tensor,
    second: Tensor,
    first_weight: Tensor,
    second_weight: Tensor,
    share: Tensor | None,
    gate: Tensor | None,
    gain: float,
    shift: float,
) -> MixGradients:
    """Gradients of both inputs, both weights, share and gate; those of what is missing are empty."""
    found = _fake_norm_mix_backward(d_y, first, second, first_weight, second_weight, share, gate, gain, shift)
    d_first, d_second, _, _, d_share, d_gate = found
    rows, heads, size = second.shape
    chosen = tile(size)
    programs = _programs(rows, heads, chosen.rows)
    shares = second.new_empty((programs, heads, 2, size), dtype=torch.float32)
    with on(second):
        mix_backward_kernel[(programs, heads)](
            first, second, first_weight, second_weight, share, gate, d_y.contiguous(), d_first, d_second, d_share,
            d_gate, shares, gain, shift, rows, size, *_strides(first, second, share, gate),
            S=chosen.size, R=chosen.rows, SHARED=share is not None, GATED=gate is not None, num_warps=chosen.warps,
        )  # fmt: skip
    one, two = shares.sum((0, 1))
    # clones, since an operator may not return two views of one tensor
    return (
        d_first,
        d_second,
        one.to(first_weight.dtype, copy=True),
        two.to(second_weight.dtype, copy=True),
        d_share,
        d_gate,
    )


def _fake_norm_mix_backward(
    d_y: Tensor,
    first: Tensor,
    second: Tensor,
    first_weight: Tensor,
    second_weight: Tensor,
    share: Tensor | None,
    gate: Tensor | None,
    gain: float,
    shift: float,
) -> MixGradients:
    d_share, d_gate = (second.new_empty((0,)) if x is None else x.new_empty(x.shape) for x in (share, gate))
    whole = (first, second, first_weight, second_weight)
    d_first, d_second, d_one, d_two = (x.new_empty(x.shape) for x in whole)
    return d_first, d_second, d_one, d_two, d_share, d_gate


def _programs(rows: int, heads: int, at_once: int) -> int:
    return min(-(-rows // at_once), max(1, PROGRAMS // heads))


def _strides(*tensors: Tensor | None) -> tuple[int, ...]:
    """Of the rows and heads of each; 0 for what is missing."""
    return tuple(stride for x in tensors for stride in ((0, 0) if x is None else x.stride()[:2]))


def _of_head(weight: Tensor | None) -> int:
    return 0 if weight is None or weight.dim() == 1 else weight.shape[1]


def _keep(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    *tensors, ctx.gain, ctx.shift = inputs
    ctx.save_for_backward(*tensors)


def _backward(ctx: Any, d_y: Tensor) -> tuple[Tensor | None, ...]:
    _, weight, gate = ctx.saved_tensors
    d_x, d_weight, d_gate = norm_backward(d_y, *ctx.saved_tensors, ctx.gain, ctx.shift)
    return d_x, None if weight is None else d_weight, None if gate is None else d_gate, None, None


def _mix_backward(ctx: Any, d_y: Tensor) -> tuple[Tensor | None, ...]:
    share, gate = ctx.saved_tensors[4:]
    *found, d_share, d_gate = norm_mix_backward(d_y, *ctx.saved_tensors, ctx.gain, ctx.shift)
    return *found, None if share is None else d_share, None if gate is None else d_gate, None, None


norm = define("norm", "(Tensor x, Tensor? weight, Tensor? gate, float gain, float shift) -> Tensor", _norm, _fake_norm)
norm_backward = define(
    "norm_backward",
    "(Tensor d_y, Tensor x, Tensor? weight, Tensor? gate, float gain, float shift) -> (Tensor, Tensor, Tensor)",
    _norm_backward,
    _fake_norm_backward,
)
norm_mix = define(
    "norm_mix",
    "(Tensor first, Tensor second, Tensor first_weight, Tensor second_weight, Tensor? share, Tensor? gate, float gain, "
    "float shift) -> Tensor",
    _norm_mix,
    _fake_norm_mix,
)
norm_mix_backward = define(
    "norm_mix_backward",
    "(Tensor d_y, Tensor first, Tensor second, Tensor first_weight, Tensor second_weight, Tensor? share, Tensor? gate, "
    "float gain, float shift) -> (Tensor, Tensor, Tensor, Tensor, Tensor, Tensor)",
    _norm_mix_backward,
    _fake_norm_mix_backward,
)
differentiate("norm", _keep, _backward)
differentiate("norm_mix", _keep, _mix_backward)
