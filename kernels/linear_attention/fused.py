"""Gated linear attention by Triton kernels, with gradients; what `dispatch` runs on a GPU.

Triton is imported by the first call, not with this module: a machine without a GPU need not have it.
"""

import torch
from torch import Tensor
from torch.nn.functional import pad

from hybridsearch.kernels.linear_attention.triton_tiles import DTYPES, LARGEST_KEY, largest_value, padded_sizes
from hybridsearch.kernels.registration import refuses_device, want_gradient


def gated_linear_attention(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    g: Tensor,
    *,
    scale: float | None = None,
    initial_state: Tensor | None = None,
    segments: int = 0,
) -> tuple[Tensor, Tensor]:
    """Output [B, T, H, V] in v's dtype and the final state [B, H, K, V] in float32; arguments as in `reference`.

    v is bfloat16 or float32, q and k are taken as v's dtype, K <= 128. A log decay below -30 counts as that; if each
    key channel has its own, one below -16, in bfloat16 -10. `segments`, the parts that T is split into so that few
    heads fill the device, follows from the shapes if 0.
    """
    from hybridsearch.kernels.linear_attention import triton_operators

    key_size, value_size = k.shape[-1], v.shape[-1]
    scale = key_size**-0.5 if scale is None else scale
    largest = largest_value(v.dtype)
    if value_size > largest:  # value columns know nothing of each other
        states = [None] if initial_state is None else torch.split(initial_state, largest, -1)
        parts = [
            gated_linear_attention(q, k, part, g, scale=scale, initial_state=states[n % len(states)], segments=segments)
            for n, part in enumerate(torch.split(v, largest, -1))
        ]
        return torch.cat([o for o, _ in parts], -1), torch.cat([state for _, state in parts], -1)
    whole_key, whole_value = padded_sizes(key_size, value_size, v.dtype)
    more_keys, more_values = whole_key - key_size, whole_value - value_size
    q, k, g = q.to(v.dtype), k.to(v.dtype), g.to(torch.float32)
    if more_keys:
        q, k = pad(q, (0, more_keys)), pad(k, (0, more_keys))
        g = pad(g, (0, more_keys)) if g.dim() == 4 else g
    if more_values:
        v = pad(v, (0, more_values))
    if initial_state is not None:
        initial_state = initial_state.to(torch.float32)
        if more_keys or more_values:
            initial_state = pad(initial_state, (0, more_values, 0, more_keys))
    train = want_gradient(q, k, v, g, initial_state)
    output, state, *_ = triton_operators.gated_linear(q, k, v, g, initial_state, scale, segments, train)
    if more_keys or more_values:
        output, state = output[..., :value_size], state[:, :, :key_size, :value_size]
    return output, state


def gated_linear_attention_step(
    q: Tensor, k: Tensor, v: Tensor, g: Tensor, state: Tensor, *, scale: float | None = None
) -> tuple[Tensor, Tensor]:
    """One token, as `step.gated_linear_attention_step`, for a float32 state; not differentiable."""
    from hybridsearch.kernels.linear_attention import triton_operators

    output, after = triton_operators.linear_step(q, k, v, g, state, k.shape[-1] ** -0.5 if scale is None else scale)
    return output, after


def refuses(device: torch.device, dtype: torch.dtype, head_dim: int) -> str:
    """Why the kernels cannot serve this device, dtype and key size; empty if they can."""
    reason = refuses_device(device)
    if not reason and dtype not in DTYPES:
        reason = f"needs bfloat16 or float32, found {dtype}"
    return reason or (f"key size {head_dim} is above {LARGEST_KEY}" if head_dim > LARGEST_KEY else "")
