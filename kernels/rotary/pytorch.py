"""Rotary positions in plain PyTorch: channel i of a head turns with channel i + K/2 (Su et al., 2104.09864).

Axes: B batch, T tokens, H heads, K head size.
"""

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable


def rotate(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """[B, T, H, K] turned; cos and sin are [T, H or 1, K], and the first half of sin is negated."""
    return torch.addcmul(x * cos, _swapped(x), sin)


def rotate_own_backward(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """As `rotate`, for training on a CPU: the gradient is the rotation back, and only the angles are kept for it."""
    if not torch.is_grad_enabled():
        return rotate(x, cos, sin)
    y: Tensor = _Rotation.apply(x, cos, sin)  # type: ignore[no-untyped-call]
    return y


class _Rotation(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
        ctx.save_for_backward(cos, sin)
        return (x * cos).addcmul_(_swapped(x), sin)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, dy: Tensor) -> tuple[Tensor, None, None]:
        cos, sin = ctx.saved_tensors
        return (dy * cos).addcmul_(_swapped(dy), sin, value=-1.0), None, None


def _swapped(x: Tensor) -> Tensor:
    half = x.shape[-1] // 2
    return torch.cat((x[..., half:], x[..., :half]), dim=-1)
