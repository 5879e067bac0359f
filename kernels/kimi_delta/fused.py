"""The delta rule with a decay a key channel by Triton kernels, with gradients.

Any key size to 128 (float32: 64) and any value size: both are padded with zeros to powers of two, and wider values are
worked on as several heads that share their keys and gates. Triton is imported by the first call, not with this module:
a machine without a GPU need not have it.
"""

import torch
from torch import Tensor
from torch.nn.functional import pad

from hybridsearch.kernels.kimi_delta.tiles import DTYPES, largest_key, padded_sizes, tile
from hybridsearch.kernels.registration import multiprocessors, refuses_device, want_gradient

SHORTEST_SEGMENT = 512
"""Tokens; a shorter segment would pay more for its transition than it gains."""


def refuses(device: torch.device, dtype: torch.dtype, head_dim: int) -> str:
    """Why the kernels cannot serve this device, dtype and key size; empty if they can."""
    if dtype not in DTYPES:
        return refuses_device(device) or f"needs bfloat16 or float32, found {dtype}"
    largest = largest_key(dtype)
    too_large = f"key size {head_dim} is above {largest}" if head_dim > largest else ""
    return refuses_device(device) or too_large


def refuses_step(device: torch.device, dtype: torch.dtype, head_dim: int) -> str:
    """Why the decoding step cannot serve this device; it takes any size and, but for float64, any dtype."""
    too_exact = "keeps states in float32, found float64" if dtype == torch.float64 else ""
    return refuses_device(device) or too_exact


def kimi_delta_rule(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    g: Tensor,
    beta: Tensor,
    *,
    scale: float | None = None,
    initial_state: Tensor | None = None,
    segments: int | None = None,
) -> tuple[Tensor, Tensor]:
    """Output [B, T, HV, V] in v's dtype and the final state [B, HV, K, V] in float32; arguments as in `reference`.

    v is bfloat16 or float32; q and k are taken as v's dtype. A log decay below -16, in bfloat16 -10, counts as that.
    `segments`, the parts that T is split into so that few heads fill the device, follows from the shapes if not given.
    """
    from hybridsearch.kernels.kimi_delta import operators

    heads, key_size, value_size = v.shape[2], k.shape[-1], v.shape[-1]
    scale = key_size**-0.5 if scale is None else scale
    whole_key, width = padded_sizes(key_size, value_size, v.dtype)
    more_keys, more_values = whole_key - key_size, -value_size % width
    q, k, g = q.to(v.dtype), k.to(v.dtype), g.to(torch.float32)
    if initial_state is not None:
        initial_state = initial_state.to(torch.float32)
    if more_keys or more_values:
        q, k, g = (pad(x, (0, more_keys)) for x in (q, k, g))
        v = pad(v, (0, more_values))
        if initial_state is not None:
            initial_state = pad(initial_state, (0, more_values, 0, more_keys))
    parts = v.shape[-1] // width
    if parts > 1:
        v, g, beta, initial_state = _split(parts, v, g, beta, initial_state)
    segments = _segments(v, k.shape[-1]) if segments is None else segments
    train = want_gradient(q, k, v, g, beta, initial_state)
    output, state, *_ = operators.kimi_delta(q, k, v, g, beta, initial_state, scale, segments, train)
    if parts > 1:
        output = output.reshape(*output.shape[:2], heads, -1)
        batch, _, keys, values = state.shape
        state = state.view(batch, heads, parts, keys, values).movedim(2, 3).reshape(batch, heads, keys, -1)
    if more_keys or more_values:
        output, state = output[..., :value_size], state[:, :, :key_size, :value_size]
    return output, state


def kimi_delta_step(
    q: Tensor, k: Tensor, v: Tensor, g: Tensor, beta: Tensor, state: Tensor, *, scale: float | None = None
) -> tuple[Tensor, Tensor]:
    """One token, as `reference.kimi_delta_step`, for a float32 state of any sizes; without gradients."""
    from hybridsearch.kernels.kimi_delta import operators

    scale = k.shape[-1] ** -0.5 if scale is None else scale
    output, after = operators.kimi_delta_step(q, k, v, g, beta, state, scale)
    return output, after


def _split(
    parts: int, v: Tensor, g: Tensor, beta: Tensor, state: Tensor | None
) -> tuple[Tensor, Tensor, Tensor, Tensor | None]:
    """A head with too many values as `parts` heads."""
    batch, tokens, heads, value_size = v.shape
    v = v.reshape(batch, tokens, heads * parts, value_size // parts)
    if state is not None:
        state = state.reshape(batch, heads, -1, parts, value_size // parts).movedim(3, 2).flatten(1, 2)
    return v, g.repeat_interleave(parts, 2), beta.repeat_interleave(parts, 2), state


def _segments(v: Tensor, key_size: int) -> int:
    """Segments that fill the device's multiprocessors; 1 if they are filled anyway or nothing would be gained."""
    if v.device.type != "cuda":
        return 1
    batch, tokens, heads, value_size = v.shape
    programs = batch * heads * (value_size // tile("output", key_size, value_size, v.dtype).columns)
    processors = multiprocessors(v.device)
    wanted = min(processors // programs, tokens // SHORTEST_SEGMENT)
    # Running every segment twice costs as much again: two segments gain nothing.
    return wanted if wanted > 2 else 1
