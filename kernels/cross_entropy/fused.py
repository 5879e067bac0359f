"""Cross entropy with Triton kernels over the logits, which stay in the dtype of their product; `dispatch`'s on a GPU.

Triton is imported by the first call, not with this module: a machine without a GPU need not have it.
"""

from typing import Literal

import torch
from torch import Tensor
from torch.nn import functional as F

from hybridsearch.kernels.cross_entropy.tiles import DTYPES
from hybridsearch.kernels.registration import refuses_device


def refuses(device: torch.device, dtype: torch.dtype, width: int) -> str:
    """Why the kernels cannot serve this device and dtype; empty if they can."""
    reason = refuses_device(device)
    return reason or ("" if dtype in DTYPES else f"needs bfloat16, float16 or float32, found {dtype}")


def cross_entropy(
    hidden: Tensor, vocabulary: Tensor, targets: Tensor, *, reduction: Literal["mean", "sum"] = "mean"
) -> Tensor:
    """As `pytorch.cross_entropy`; the backward pass overwrites the logits by their gradient, so it runs once."""
    from hybridsearch.kernels.cross_entropy import operators

    losses: Tensor = operators.cross_entropy(F.linear(hidden, vocabulary), targets.contiguous())[0]
    return losses.mean() if reduction == "mean" else losses.sum()
