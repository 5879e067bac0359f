"""The short convolution as operators of torch: `hybridsearch::short_conv`, its backward pass, and one decoding step.

One launch each; the backward pass adds one sum. Opaque to torch.compile, usable in a CUDA graph: no host waits for the
device, and no size depends on data.
"""

from typing import Any

import torch
from torch import Tensor

from hybridsearch.kernels.registration import define, differentiate, on
from hybridsearch.kernels.short_conv import tiles
from hybridsearch.kernels.short_conv.triton_kernels import backward_kernel, forward_kernel, step_kernel


def _short_conv(x: Tensor, weight: Tensor) -> Tensor:
    """SiLU of the convolution in the dtype of x; x [B, T, C] with dense channels, weight [W, C]."""
    y = x.new_empty(x.shape)
    batch, tokens, channels = x.shape
    chosen = tiles.FORWARD
    runs = batch * -(-tokens // (chosen.runs * chosen.tokens))
    with on(x):
        forward_kernel[(runs, -(-channels // chosen.channels))](
            x, weight, y, tokens, channels, *x.stride()[:2],
            W=weight.shape[0], BC=chosen.channels, R=chosen.runs, L=chosen.tokens, num_warps=chosen.warps,
        )  # fmt: skip
    return y


def _fake_short_conv(x: Tensor, weight: Tensor) -> Tensor:
    return x.new_empty(x.shape)


def _short_conv_backward(d_y: Tensor, x: Tensor, weight: Tensor) -> tuple[Tensor, Tensor]:
    """Gradients of x and weight."""
    d_x = x.new_empty(x.shape)
    batch, tokens, channels = x.shape
    chosen = tiles.BACKWARD
    columns = -(-channels // chosen.channels)
    runs = batch * -(-tokens // (chosen.runs * chosen.tokens))
    programs = min(runs, max(1, tiles.PROGRAMS // columns))
    shares = x.new_empty((programs, *weight.shape), dtype=torch.float32)
    with on(x):
        backward_kernel[(programs, columns)](
            x, weight, d_y.contiguous(), d_x, shares, tokens, runs, channels, *x.stride()[:2],
            W=weight.shape[0], BC=chosen.channels, R=chosen.runs, L=chosen.tokens, num_warps=chosen.warps,
        )  # fmt: skip
    return d_x, shares.sum(0).to(weight.dtype)


def _fake_short_conv_backward(d_y: Tensor, x: Tensor, weight: Tensor) -> tuple[Tensor, Tensor]:
    return x.new_empty(x.shape), weight.new_empty(weight.shape)


def _short_conv_step(x: Tensor, weight: Tensor, tail: Tensor) -> tuple[Tensor, Tensor]:
    """Output [B, C] in the dtype of x and the new tail [B, W - 1, C]."""
    x, tail = x if x.stride(-1) == 1 else x.contiguous(), tail.contiguous()
    y, after = _fake_short_conv_step(x, weight, tail)
    batch, channels = x.shape
    chosen = tiles.STEP
    with on(x):
        step_kernel[(-(-channels // chosen.channels), batch)](
            x, weight, tail, y, after, channels, x.stride(0),
            W=weight.shape[0], BC=chosen.channels, num_warps=chosen.warps,
        )  # fmt: skip
    return y, after


def _fake_short_conv_step(x: Tensor, weight: Tensor, tail: Tensor) -> tuple[Tensor, Tensor]:
    return x.new_empty(x.shape), tail.new_empty(tail.shape)


def _keep(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    ctx.save_for_backward(*inputs)


def _backward(ctx: Any, d_y: Tensor) -> tuple[Tensor, Tensor]:
    found: tuple[Tensor, Tensor] = short_conv_backward(d_y, *ctx.saved_tensors)
    return found


short_conv = define("short_conv", "(Tensor x, Tensor weight) -> Tensor", _short_conv, _fake_short_conv)
short_conv_backward = define(
    "short_conv_backward",
    "(Tensor d_y, Tensor x, Tensor weight) -> (Tensor, Tensor)",
    _short_conv_backward,
    _fake_short_conv_backward,
)
short_conv_step = define(
    "short_conv_step",
    "(Tensor x, Tensor weight, Tensor tail) -> (Tensor, Tensor)",
    _short_conv_step,
    _fake_short_conv_step,
)
differentiate("short_conv", _keep, _backward)
