"""Rotary positions by a Triton kernel, with the gradient of x; what `dispatch` runs on a GPU.

Triton is imported by the first call, not with this module: a machine without a GPU need not have it.
"""

import torch
from torch import Tensor

from hybridsearch.kernels.registration import refuses_device

DTYPES = (torch.bfloat16, torch.float16, torch.float32)


def refuses(device: torch.device, dtype: torch.dtype, head_dim: int) -> str:
    """Why the kernel cannot serve this device and dtype; empty if it can."""
    reason = refuses_device(device)
    return reason or ("" if dtype in DTYPES else f"needs bfloat16, float16 or float32, found {dtype}")


def rotate(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """[B, T, H, K] turned; cos and sin are [T, H or 1, K], and the first half of sin is negated."""
    from hybridsearch.kernels.rotary import operators

    even = x.stride(-1) == 1 and (x.shape[0] == 1 or x.stride(0) == x.shape[1] * x.stride(1))
    cos, sin = cos.contiguous(), sin.contiguous()
    y: Tensor = operators.rotate(x if even else x.contiguous(), cos, sin, 1.0)
    return y
