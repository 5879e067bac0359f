"""Rotary positions as an operator of torch, `hybridsearch::rotate`: its gradient is itself, turned back.

One launch. Opaque to torch.compile, usable in a CUDA graph: no host waits for the device, and no size depends on data.
"""

from typing import Any

import triton
from torch import Tensor

from hybridsearch.kernels.registration import define, differentiate, on
from hybridsearch.kernels.rotary.triton_kernel import rotate_kernel

NUMBERS = 2048
"""Of a program, 16 a thread."""


def _rotate(x: Tensor, cos: Tensor, sin: Tensor, sign: float) -> Tensor:
    """[B, T, H, K], evenly spaced tokens, turned by cos and sin [T, H or 1, K]; `sign` -1 turns back."""
    y = x.new_empty(x.shape)
    batch, tokens, heads, size = x.shape
    padded = triton.next_power_of_2(size // 2)
    at_once = max(1, NUMBERS // (2 * padded))
    rows = batch * tokens * heads
    with on(x):
        rotate_kernel[(-(-rows // at_once),)](
            x, cos, sin, y, rows, tokens, heads, x.stride(1), x.stride(2),
            cos.stride(0), 0 if cos.shape[1] == 1 else cos.stride(1), sign,
            HALF=size // 2, S=padded, R=at_once, num_warps=4,
        )  # fmt: skip
    return y


def _fake_rotate(x: Tensor, cos: Tensor, sin: Tensor, sign: float) -> Tensor:
    return x.new_empty(x.shape)


def _keep(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    _, cos, sin, ctx.sign = inputs
    ctx.save_for_backward(cos, sin)


def _backward(ctx: Any, d_y: Tensor) -> tuple[Tensor, None, None, None]:
    return rotate(d_y.contiguous(), *ctx.saved_tensors, -ctx.sign), None, None, None


rotate = define("rotate", "(Tensor x, Tensor cos, Tensor sin, float sign) -> Tensor", _rotate, _fake_rotate)
differentiate("rotate", _keep, _backward)
