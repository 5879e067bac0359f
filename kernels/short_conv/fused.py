"""The short convolution by Triton kernels, with gradients; what `dispatch` runs on a GPU.

Triton is imported by the first call, not with this module: a machine without a GPU need not have it.
"""

import torch
from torch import Tensor

from hybridsearch.kernels.registration import refuses_device
from hybridsearch.kernels.short_conv.tiles import DTYPES, WIDTHS


def refuses(device: torch.device, dtype: torch.dtype, width: int) -> str:
    """Why the kernels cannot serve this device, dtype and width; empty if they can."""
    reason = refuses_device(device)
    if not reason and dtype not in DTYPES:
        reason = f"needs bfloat16, float16 or float32, found {dtype}"
    return reason or ("" if width in WIDTHS else f"width {width} is not 2 to 8")


def short_conv(x: Tensor, weight: Tensor) -> Tensor:
    """[B, T, C] with weight [W, C] -> [B, T, C] in the dtype of x; sums are float32."""
    from hybridsearch.kernels.short_conv import operators

    y: Tensor = operators.short_conv(x if x.stride(-1) == 1 else x.contiguous(), weight.contiguous())
    return y


def short_conv_step(x: Tensor, weight: Tensor, tail: Tensor) -> tuple[Tensor, Tensor]:
    """One token [B, C] after the inputs `tail` [B, W - 1, C] -> output [B, C] and the new tail; without gradients."""
    from hybridsearch.kernels.short_conv import operators

    y, after = operators.short_conv_step(x, weight.contiguous(), tail)
    return y, after
