"""The norms by Triton kernels, with gradients; what `dispatch` runs on a GPU.

Triton is imported by the first call, not with this module: a machine without a GPU need not have it.
"""

from typing import Any

import torch
from torch import Tensor

from hybridsearch.kernels.registration import refuses_device
from hybridsearch.kernels.rms_norm.tiles import DTYPES, LARGEST_HEADS, LARGEST_SIZE


def refuses(device: torch.device, dtype: torch.dtype, size: int) -> str:
    """Why the kernels cannot serve this device, dtype and length of a row; empty if they can."""
    reason = refuses_device(device)
    if not reason and dtype not in DTYPES:
        reason = f"needs bfloat16, float16 or float32, found {dtype}"
    return reason or (f"rows of {size} are above {LARGEST_SIZE}" if size > LARGEST_SIZE else "")


def rms_norm(x: Tensor, weight: Tensor | None, epsilon: float) -> Tensor:
    """As `reference.rms_norm`, in the dtype of x, whatever that of the weight."""
    size = x.shape[-1]
    return _normed(x, weight, None, float(size**0.5), size * epsilon)


def unit_length(x: Tensor, epsilon: float) -> Tensor:
    """As `reference.unit_length`, in the dtype of x."""
    return _normed(x, None, None, 1.0, epsilon)


def gated_rms_norm(x: Tensor, weight: Tensor, gate: Tensor, epsilon: float) -> Tensor:
    """As `reference.gated_rms_norm`, in the dtype of x."""
    size = x.shape[-1]
    return _normed(x, weight, gate, float(size**0.5), size * epsilon)


def mixed_rms_norm(
    first: Tensor,
    second: Tensor,
    first_weight: Tensor,
    second_weight: Tensor,
    share: Tensor | None,
    gate: Tensor | None,
    epsilon: float,
) -> Tensor:
    """As `reference.mixed_rms_norm`, in the dtype of the second."""
    from hybridsearch.kernels.rms_norm import operators

    size, shape = second.shape[-1], second.shape
    first, second, gate = _rows(first, second, gate)
    if share is not None:
        share = share.expand(shape[:-1]).reshape(second.shape[:2])
    weights = first_weight.contiguous(), second_weight.contiguous()
    y: Tensor = operators.norm_mix(first, second, *weights, share, gate, float(size**0.5), size * epsilon)
    return y.view(shape)


def _normed(x: Tensor, weight: Tensor | None, gate: Tensor | None, gain: float, shift: float) -> Tensor:
    from hybridsearch.kernels.rms_norm import operators

    rows, gate = _rows(x, gate, by_head=weight is not None and weight.dim() == 2)
    y: Tensor = operators.norm(rows, None if weight is None else weight.contiguous(), gate, gain, shift)
    return y.view(x.shape)


def _rows(first: Tensor, *more: Tensor | None, by_head: bool = False) -> list[Any]:
    """All as [N, H, K], views where strides allow it; H is 1 where rows are evenly spaced, else the axis before K."""
    tensors = [x if x is None or x.stride(-1) == 1 else x.contiguous() for x in (first, *more)]
    even = all(x is None or _is_even(x) for x in tensors)
    if not by_head and (even or first.dim() < 3 or first.shape[-2] > LARGEST_HEADS):
        return [None if x is None else x.reshape(-1, 1, x.shape[-1]) for x in tensors]
    return [None if x is None else x.flatten(0, -3) for x in tensors]


def _is_even(x: Tensor) -> bool:
    """Whether the rows along the last axis are equally far apart."""
    shape, strides = x.shape, x.stride()
    return all(strides[d] == strides[d + 1] * shape[d + 1] for d in range(x.dim() - 2))
