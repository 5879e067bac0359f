"""Sliding-window attention by Triton kernels, with gradients; what `dispatch` runs on a GPU.

Triton is imported by the first call, not with this module: a machine without a GPU need not have it.
"""

import torch
from torch import Tensor
from torch.nn.functional import pad

from hybridsearch.kernels.attention.pytorch import causal_attention_cuda
from hybridsearch.kernels.registration import refuses_device
from hybridsearch.kernels.sliding_window.tiles import DTYPES, LARGEST_FLOAT32, LARGEST_SIZE, padded_size


def refuses(device: torch.device, dtype: torch.dtype, head_dim: int) -> str:
    """Why the kernels cannot serve this device, dtype and key size; empty if they can."""
    reason = refuses_device(device)
    if not reason and dtype not in DTYPES:
        reason = f"needs bfloat16 or float32, found {dtype}"
    largest = LARGEST_FLOAT32 if dtype == torch.float32 else LARGEST_SIZE
    return reason or (f"key size {head_dim} is above {largest}" if head_dim > largest else "")


def sliding_window_attention(
    q: Tensor, k: Tensor, v: Tensor, *, window: int, sinks: int = 0, scale: float | None = None
) -> Tensor:
    """Output [B, T, H, V] in v's dtype (under autocast: in its dtype); arguments as in `reference`, K <= 128.

    Where the window spans all tokens it is causal attention, for which cuDNN is faster.
    """
    from hybridsearch.kernels.sliding_window import operators

    key_size, value_size = k.shape[-1], v.shape[-1]
    scale = key_size**-0.5 if scale is None else scale
    dtype = v.dtype
    if torch.is_autocast_enabled(v.device.type):  # as scaled_dot_product_attention does
        dtype = torch.get_autocast_dtype(v.device.type)
    q, k, v = (x.to(dtype) for x in (q, k, v))
    if window >= q.shape[1] and q.is_cuda:
        return causal_attention_cuda(q, k, v, scale=scale)
    q, k, v = (_padded(x) for x in (q, k, v))
    output: Tensor
    largest = LARGEST_FLOAT32 if dtype == torch.float32 else LARGEST_SIZE
    if v.shape[-1] <= largest:
        output = operators.sliding_window(q, k, v, window, sinks, scale)[0]
    else:  # value columns know nothing of each other
        parts = torch.split(v, largest, -1)
        output = torch.cat([operators.sliding_window(q, k, part, window, sinks, scale)[0] for part in parts], -1)
    return output[..., :value_size]


def _padded(x: Tensor) -> Tensor:
    more = padded_size(x.shape[-1], x.dtype) - x.shape[-1]
    return pad(x, (0, more)) if more else x
