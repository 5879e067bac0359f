"""The gated delta rule by Triton kernels: two launches forwards, two backwards, more only where heads are few.

The operators `hybridsearch::gated_delta` and `hybridsearch::gated_delta_backward` are opaque to torch.compile (no graph
break) and can stand in a CUDA graph: no host waits for the device, no size depends on data. Few heads over long
sequences are split along T: every segment is run from a zero state, together with its transition, before a short scan
gives it the state it starts from.
"""

import torch
from torch import Tensor
from torch.nn.functional import pad

from hybridsearch.kernels.gated_delta.tiles import (
    CHUNK,
    DTYPES,
    LARGEST_KEY,
    padded_key_size,
    padded_value_size,
    tile,
)
from hybridsearch.kernels.gated_delta.triton_backward import inputs_backward_kernel, values_backward_kernel
from hybridsearch.kernels.gated_delta.triton_forward import (
    join_kernel,
    output_kernel,
    prepare_kernel,
    segment_kernel,
)
from hybridsearch.kernels.gated_delta.triton_step import step_kernel

SHORTEST_SEGMENT = 8
"""Chunks; a shorter segment would pay more for its transition than it gains."""

Saved = tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]


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
) -> tuple[Tensor, Tensor]:
    """Output [B, T, HV, V] in v's dtype and the final state [B, HV, K, V] in float32; arguments as in `reference`.

    q, k and v are all bfloat16 or all float32, with K <= 128. `segments`, the parts T is split into, follows from the
    shapes and the device if not given.
    """
    key_size, value_size = k.shape[-1], v.shape[-1]
    scale = key_size**-0.5 if scale is None else scale
    more_keys = padded_key_size(key_size) - key_size
    more_values = padded_value_size(value_size) - value_size
    if more_keys:
        q, k = pad(q, (0, more_keys)), pad(k, (0, more_keys))
    if more_values:
        v = pad(v, (0, more_values))
    if initial_state is not None:
        initial_state = initial_state.to(torch.float32)
        if more_keys or more_values:
            initial_state = pad(initial_state, (0, more_values, 0, more_keys))
    g = None if g is None else g.to(torch.float32)
    if segments is None:
        segments = _segments(v.shape[0] * v.shape[2], v.shape[1], k.shape[-1], v.shape[-1], v)
    tensors = [x for x in (q, k, v, g, beta, initial_state) if x is not None]
    train = torch.is_grad_enabled() and any(x.requires_grad for x in tensors)
    output, state, *_ = gated_delta(q, k, v, g, beta, initial_state, scale, segments, train)
    if more_values:
        output = output[..., :value_size]
    if more_keys or more_values:
        state = state[:, :, :key_size, :value_size]
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
    """One token, as `reference.gated_delta_step`, for a float32 state; not differentiable."""
    scale = k.shape[-1] ** -0.5 if scale is None else scale
    output, after = delta_step(q, k, v, g, beta, state, scale)
    return output, after


def refuses(device: torch.device, dtype: torch.dtype, head_dim: int) -> str:
    """Why the kernels cannot serve this device, dtype and key size; empty if they can."""
    if device.type != "cuda":
        return f"needs cuda, found {device.type}"
    if torch.cuda.get_device_capability(device)[0] < 8:
        return "needs compute capability 8.0 or more"
    if dtype not in DTYPES:
        return f"needs bfloat16 or float32, found {dtype}"
    return f"head size {head_dim} is above {LARGEST_KEY}" if head_dim > LARGEST_KEY else ""


def _segments(rows: int, tokens: int, key_size: int, value_size: int, like: Tensor) -> int:
    """Segments that fill the device's multiprocessors; 1 if they are filled anyway or nothing would be gained."""
    if like.device.type != "cuda":
        return 1
    programs = rows * (value_size // tile("output", key_size, value_size, like.dtype).columns)
    processors = torch.cuda.get_device_properties(like.device).multi_processor_count
    chunks = -(-tokens // CHUNK)
    wanted = min(processors // programs, chunks // SHORTEST_SEGMENT)
    # Running every segment twice costs as much again: two segments gain nothing.
    return wanted if wanted > 2 else 1


def _span(tokens: int, segments: int) -> tuple[int, int, int]:
    """Chunks, chunks of a segment, and the segments that leaves."""
    chunks = -(-tokens // CHUNK)
    span = -(-chunks // segments)
    return chunks, span, -(-chunks // span)


@torch.library.custom_op("hybridsearch::gated_delta", mutates_args=())
def gated_delta(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    g: Tensor | None,
    beta: Tensor,
    initial_state: Tensor | None,
    scale: float,
    segments: int,
    train: bool,
) -> Saved:
    """Output, final state, and what the backward pass needs: A, P, gates, errors, states before each chunk, transitions.

    Errors and states are empty unless `train`, transitions unless there is more than one segment.
    """
    q, k, v, beta = q.contiguous(), k.contiguous(), v.contiguous(), beta.contiguous()
    output, last, inverse, scores, gates, errors, befores, transitions = _outputs(q, k, v, segments, train)
    tokens, heads, key_size, value_heads, value_size = *q.shape[1:], *v.shape[2:]
    rows = v.shape[0] * value_heads
    chunks, span, segments = _span(tokens, segments)
    plane = rows * chunks * CHUNK
    sizes = {"K": key_size, "C": CHUNK, "GATED": g is not None, "PRECISION": _precision(v.dtype)}
    with torch.cuda.device_of(q):
        chosen = tile("prepare", key_size, value_size, v.dtype)
        prepare_kernel[(rows * chunks,)](
            q, k, None if g is None else g.contiguous(), beta, inverse, scores, gates, scale,
            tokens, heads, value_heads, chunks, plane, **sizes, num_warps=chosen.warps, num_stages=chosen.stages,
        )  # fmt: skip
        starts = None if initial_state is None else initial_state.mT.contiguous()
        if segments > 1:
            starts = q.new_empty((rows, segments, value_size, key_size), dtype=torch.float32)
            starts[:, 0] = 0.0 if initial_state is None else initial_state.flatten(0, 1).mT
            chosen = tile("segment", key_size, value_size, v.dtype)
            segment_kernel[(rows * (segments - 1) * ((value_size + key_size) // chosen.columns),)](
                k, v, inverse, gates, starts, transitions, tokens, heads, value_heads, chunks, segments, span, plane,
                V=value_size, BV=chosen.columns, **sizes, num_warps=chosen.warps, num_stages=chosen.stages,
            )  # fmt: skip
            _join(transitions, starts, v.dtype, reverse=False)
        chosen = tile("output", key_size, value_size, v.dtype)
        output_kernel[(rows * segments * (value_size // chosen.columns),)](
            q, k, v, inverse, scores, gates, starts, output, befores, errors, last, scale,
            tokens, heads, value_heads, chunks, segments, span, plane, V=value_size, BV=chosen.columns,
            STARTED=starts is not None, TRAIN=train, **sizes, num_warps=chosen.warps, num_stages=chosen.stages,
        )  # fmt: skip
    return output, last, inverse, scores, gates, errors, befores, transitions


@gated_delta.register_fake
def _(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    g: Tensor | None,
    beta: Tensor,
    initial_state: Tensor | None,
    scale: float,
    segments: int,
    train: bool,
) -> Saved:
    return _outputs(q, k, v, segments, train)


def _outputs(q: Tensor, k: Tensor, v: Tensor, segments: int, train: bool) -> Saved:
    batch, tokens, value_heads, value_size = v.shape
    key_size, rows = k.shape[-1], batch * value_heads
    chunks, _, segments = _span(tokens, segments)
    kept = rows if train else 0
    exact = torch.float32
    return (
        v.new_empty(v.shape),
        v.new_empty((batch, value_heads, key_size, value_size), dtype=exact),
        v.new_empty((rows, chunks, CHUNK, CHUNK)),
        v.new_empty((rows, chunks, CHUNK, CHUNK)),
        v.new_empty((4, rows, chunks * CHUNK), dtype=exact),
        v.new_empty((kept, chunks, value_size, CHUNK)),
        v.new_empty((kept, chunks, value_size, key_size)),
        v.new_empty((rows if segments > 1 else 0, segments, key_size, key_size), dtype=exact),
    )


@torch.library.custom_op("hybridsearch::gated_delta_backward", mutates_args=())
def gated_delta_backward(
    d_output: Tensor,
    d_last: Tensor | None,
    q: Tensor,
    k: Tensor,
    v: Tensor,
    beta: Tensor,
    inverse: Tensor,
    scores: Tensor,
    gates: Tensor,
    errors: Tensor,
    befores: Tensor,
    transitions: Tensor,
    scale: float,
    segments: int,
    gated: bool,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]:
    """Gradients of q and k (for each value head: [B, T, HV, K]), v, g (float32), beta and the initial state."""
    q, k, v, d_output = q.contiguous(), k.contiguous(), v.contiguous(), d_output.contiguous()
    d_q, d_k, d_v, d_g, d_beta, d_initial = _gradients(q, v, beta)
    tokens, heads, key_size, value_heads, value_size = *q.shape[1:], *v.shape[2:]
    rows = v.shape[0] * value_heads
    chunks, span, segments = _span(tokens, segments)
    plane = rows * chunks * CHUNK
    d_afters = torch.empty_like(befores)
    sizes = {"K": key_size, "V": value_size, "C": CHUNK, "GATED": gated, "PRECISION": _precision(v.dtype)}
    with torch.cuda.device_of(q):
        chosen = tile("values_backward", key_size, value_size, v.dtype)
        columns = value_size // chosen.columns
        d_ends = None if d_last is None else d_last.mT.contiguous()
        for alone in (True, False) if segments > 1 else (False,):
            if alone:
                d_ends = q.new_empty((rows, segments, value_size, key_size), dtype=torch.float32)
                d_ends[:, -1] = 0.0 if d_last is None else d_last.flatten(0, 1).mT
            values_backward_kernel[(rows * (segments - alone) * columns,)](
                q, k, inverse, scores, gates, d_output, d_ends, d_v, d_afters, d_initial, scale,
                tokens, heads, value_heads, chunks, segments, span, plane, BV=chosen.columns,
                ENDED=d_ends is not None, ALONE=alone, **sizes, num_warps=chosen.warps, num_stages=chosen.stages,
            )  # fmt: skip
            if alone and d_ends is not None:
                _join(transitions, d_ends, v.dtype, reverse=True)
        chosen = tile("inputs_backward", key_size, value_size, v.dtype)
        inputs_backward_kernel[(rows * chunks,)](
            q, k, gates, d_output, d_v, errors, befores, d_afters, d_q, d_k, d_g, d_beta, scale,
            tokens, heads, value_heads, chunks, plane, BK=chosen.columns,
            **sizes, num_warps=chosen.warps, num_stages=chosen.stages,
        )  # fmt: skip
    return d_q, d_k, d_v, d_g, d_beta, d_initial


@gated_delta_backward.register_fake
def _(
    d_output: Tensor,
    d_last: Tensor | None,
    q: Tensor,
    k: Tensor,
    v: Tensor,
    beta: Tensor,
    inverse: Tensor,
    scores: Tensor,
    gates: Tensor,
    errors: Tensor,
    befores: Tensor,
    transitions: Tensor,
    scale: float,
    segments: int,
    gated: bool,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]:
    return _gradients(q, v, beta)


def _gradients(q: Tensor, v: Tensor, beta: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]:
    batch, tokens, value_heads, value_size = v.shape
    shares = (batch, tokens, value_heads, q.shape[-1])
    return (
        q.new_empty(shares),
        q.new_empty(shares),
        v.new_empty(v.shape),
        v.new_empty((batch, tokens, value_heads), dtype=torch.float32),
        beta.new_empty((batch, tokens, value_heads)),
        v.new_empty((batch, value_heads, q.shape[-1], value_size), dtype=torch.float32),
    )


def _keep(ctx: torch.autograd.function.FunctionCtx, inputs: tuple, output: Saved) -> None:
    q, k, v, g, beta, initial_state, scale, segments, _ = inputs
    ctx.set_materialize_grads(False)
    ctx.mark_non_differentiable(*output[2:])
    ctx.save_for_backward(q, k, v, beta, *output[2:])
    ctx.scale, ctx.segments, ctx.gated, ctx.started = scale, segments, g is not None, initial_state is not None


def _backward(
    ctx: torch.autograd.function.FunctionCtx, d_output: Tensor | None, d_last: Tensor | None, *_: None
) -> tuple:
    q, k, v, beta, *saved = ctx.saved_tensors
    d_output = torch.zeros_like(v) if d_output is None else d_output
    d_q, d_k, d_v, d_g, d_beta, d_initial = gated_delta_backward(
        d_output, d_last, q, k, v, beta, *saved, ctx.scale, ctx.segments, ctx.gated
    )
    groups = v.shape[2] // k.shape[2]
    if groups > 1:
        d_q, d_k = (x.unflatten(2, (k.shape[2], groups)).sum(3) for x in (d_q, d_k))
    return d_q, d_k, d_v, d_g if ctx.gated else None, d_beta, d_initial if ctx.started else None, None, None, None


gated_delta.register_autograd(_backward, setup_context=_keep)


def _join(transitions: Tensor, states: Tensor, dtype: torch.dtype, *, reverse: bool) -> None:
    rows, segments, value_size, key_size = states.shape
    chosen = tile("join", key_size, value_size, dtype)
    join_kernel[(rows * (value_size // chosen.columns),)](
        transitions, states, segments, K=key_size, V=value_size, BV=chosen.columns, REVERSE=reverse,
        num_warps=chosen.warps, num_stages=chosen.stages,
    )  # fmt: skip


def _precision(dtype: torch.dtype) -> str:
    """How float32 tiles are multiplied: three tf32 products keep float32 accuracy (1e-6), one (3e-4) serves bfloat16."""
    return "tf32x3" if dtype == torch.float32 else "tf32"


@torch.library.custom_op("hybridsearch::gated_delta_step", mutates_args=())
def delta_step(
    q: Tensor, k: Tensor, v: Tensor, g: Tensor | None, beta: Tensor, state: Tensor, scale: float
) -> tuple[Tensor, Tensor]:
    """Output [B, HV, V] and the new state."""
    q, k, v, beta, state = (x.contiguous() for x in (q, k, v, beta, state))
    output, after = torch.empty_like(v), torch.empty_like(state)
    batch, value_heads, value_size = v.shape
    key_size = k.shape[-1]
    columns = min(32, padded_key_size(value_size))
    with torch.cuda.device_of(q):
        step_kernel[(batch * value_heads * -(-value_size // columns),)](
            q, k, v, None if g is None else g.contiguous(), beta, state, output, after, scale,
            k.shape[1], value_heads, key_size, value_size,
            K=padded_key_size(key_size), BV=columns, GATED=g is not None, num_warps=4,
        )  # fmt: skip
    return output, after


@delta_step.register_fake
def _(
    q: Tensor, k: Tensor, v: Tensor, g: Tensor | None, beta: Tensor, state: Tensor, scale: float
) -> tuple[Tensor, Tensor]:
    return v.new_empty(v.shape), state.new_empty(state.shape)
