"""The gated delta rule by Triton kernels, with gradients; what `dispatch` runs on a GPU.

Any key size to 128 (float32: 64) and any value size: both are padded with zeros to powers of two, and wider values are
worked on as several heads that share their keys and gates. Triton is imported by the first call, not with this module:
a machine without a GPU need not have it.
"""

import torch
from torch import Tensor
from torch.nn.functional import pad

from hybridsearch.kernels.gated_delta.tiles import DTYPES, largest_key, padded_sizes, tile
from hybridsearch.kernels.registration import multiprocessors, refuses_device, want_gradient

SHORTEST_SEGMENT = 512
"""Tokens; a shorter segment would pay more for its transition than it gains."""


def refuses(device: torch.device, dtype: torch.dtype, head_dim: int) -> str:
    """Why the kernels cannot serve this device, dtype and key size; empty if they can."""
    if dtype not in DTYPES:
        return refuses_step(device, dtype, head_dim) or f"needs bfloat16 or float32, found {dtype}"
    largest = largest_key(dtype)
    too_large = f"key size {head_dim} is above {largest}" if head_dim > largest else ""
    return refuses_step(device, dtype, head_dim) or too_large


def refuses_step(device: torch.device, dtype: torch.dtype, head_dim: int) -> str:
    """Why the decoding step cannot serve this device; it takes any size and, but for float64, any dtype."""
    return refuses_device(device) or ("keeps states in float32, found float64" if dtype == torch.float64 else "")


def gated_delta_rule(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    g: Tensor | None,
    beta: Tensor,
    *,
    scale: float | None = None,
    initial_state: Tensor | None = None,
    segments: int | None = None,
    lasting: Tensor | None = None,
    train: bool | None = None,
) -> tuple[Tensor, Tensor]:
    """Output [B, T, HV, V] in v's dtype and the final state [B, HV, K, V] in float32; arguments as in `reference`.

    v is bfloat16 or float32; q and k are taken as v's dtype. A log decay below -100 counts as that. `segments`, the
    parts that T is split into so that few heads fill the device, follows from the shapes if not given. `lasting`
    [B, N, HV], for the N chunks of `tiles.chunk` tokens, is 1 for a chunk whose writes the state keeps, 0 for one whose
    writes end with it (its decay stays); its gradient is that of a factor on the chunk's writes to the state after it.
    `train` keeps what a backward pass needs; none means where one can follow.
    """
    from hybridsearch.kernels.gated_delta import operators

    heads, key_size, value_size = v.shape[2], k.shape[-1], v.shape[-1]
    scale = key_size**-0.5 if scale is None else scale
    whole_key, width = padded_sizes(key_size, value_size, v.dtype)
    more_keys, more_values = whole_key - key_size, -value_size % width
    if not q.dtype == k.dtype == v.dtype:  # `to` takes 1 us where it has nothing to do
        q, k = q.to(v.dtype), k.to(v.dtype)
    if initial_state is not None:
        initial_state = initial_state.to(torch.float32)
    if more_keys or more_values:
        q, k, v = pad(q, (0, more_keys)), pad(k, (0, more_keys)), pad(v, (0, more_values))
        if initial_state is not None:
            initial_state = pad(initial_state, (0, more_values, 0, more_keys))
    parts = v.shape[-1] // width
    if parts > 1:
        v, g, beta, initial_state = _split(parts, v, g, beta, initial_state)
        lasting = None if lasting is None else lasting.repeat_interleave(parts, 2)
    g = g if g is None or g.dtype == torch.float32 else g.to(torch.float32)
    segments = _segments(v, k.shape[-1]) if segments is None else segments
    if train is None:
        train = want_gradient(q, k, v, g, beta, initial_state, lasting)
    output, state, *_ = operators.gated_delta(q, k, v, g, beta, initial_state, scale, segments, train, lasting)
    if parts > 1:
        output = output.reshape(*output.shape[:2], heads, -1)
        batch, _, keys, values = state.shape
        state = state.view(batch, heads, parts, keys, values).movedim(2, 3).reshape(batch, heads, keys, -1)
    if more_keys or more_values:
        output, state = output[..., :value_size], state[:, :, :key_size, :value_size]
    return output, state


def gated_delta_step(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    g: Tensor | None,
    beta: Tensor,
    state: Tensor,
    *,
    scale: float | None = None,
) -> tuple[Tensor, Tensor]:
    """One token, as `reference.gated_delta_step`, for a float32 state of any sizes; without gradients."""
    from hybridsearch.kernels.gated_delta import operators

    scale = k.shape[-1] ** -0.5 if scale is None else scale
    output, after = operators.gated_delta_step(q, k, v, g, beta, state, scale)
    return output, after


def _split(
    parts: int, v: Tensor, g: Tensor | None, beta: Tensor, state: Tensor | None
) -> tuple[Tensor, Tensor | None, Tensor, Tensor | None]:
    """A head with too many values as `parts` heads."""
    batch, tokens, heads, value_size = v.shape
    v = v.reshape(batch, tokens, heads * parts, value_size // parts)
    g = None if g is None else g.repeat_interleave(parts, 2)
    if state is not None:
        state = state.reshape(batch, heads, -1, parts, value_size // parts).movedim(3, 2).flatten(1, 2)
    return v, g, beta.repeat_interleave(parts, 2), state


def _segments(v: Tensor, key_size: int) -> int:
    """Segments that fill the device's multiprocessors; 1 if they are filled anyway or nothing would be gained."""
    if v.device.type != "cuda":
        return 1
    batch, tokens, heads, value_size = v.shape
    programs = batch * heads * (value_size // tile("output", key_size, value_size, v.dtype).columns)
    wanted = min(multiprocessors(v.device) // programs, tokens // SHORTEST_SEGMENT)
    # Running every segment twice costs as much again: two segments gain nothing.
    return wanted if wanted > 2 else 1
