"""The gated delta rule as operators of torch: `hybridsearch::gated_delta`, its backward pass, and one decoding step.

Two launches forwards, two backwards; three and one more where T is split. The operators are opaque to torch.compile (no
graph break) and can stand in a CUDA graph: no host waits for the device, and no size depends on data. Where T is split
into segments, each is run from a zero state together with its transition before a short scan gives it its true start.

Axes as in `triton_forward`: X = B HV, N chunks of C tokens, G segments.
"""

from functools import cache
from typing import Any

import torch
import triton
from torch import Tensor

from hybridsearch.kernels.descriptors import flat_tiles, product_precision, token_tiles
from hybridsearch.kernels.gated_delta import tiles
from hybridsearch.kernels.gated_delta.tiles import chunk
from hybridsearch.kernels.gated_delta.triton_backward import inputs_backward_kernel, values_backward_kernel
from hybridsearch.kernels.gated_delta.triton_forward import (
    join_kernel,
    output_kernel,
    prepare_kernel,
    segment_kernel,
)
from hybridsearch.kernels.gated_delta.triton_step import step_kernel
from hybridsearch.kernels.launches import Launcher, launcher
from hybridsearch.kernels.registration import aligned, define, differentiate, on

# Not in `tiles`: torch.compile traces who calls those from `fused`, and warns of caches.
tile = cache(tiles.tile)

Saved = tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]
Gradients = tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]


def _span(tokens: int, size: int, segments: int) -> tuple[int, int, int]:
    """Chunks of `size` tokens, chunks of a segment, and the segments that leaves."""
    chunks = -(-tokens // size)
    span = -(-chunks // segments)
    return chunks, span, -(-chunks // span)


def _gated_delta(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    g: Tensor | None,
    beta: Tensor,
    initial_state: Tensor | None,
    scale: float,
    segments: int,
    train: bool,
    lasting: Tensor | None,
) -> Saved:
    """Output, final state, and what the backward pass needs: A, P, gates, errors, states before chunks, transitions.

    Errors and states are empty unless `train`, transitions unless there is more than one segment.
    """
    q, k, v, beta = aligned(q), aligned(k), aligned(v), aligned(beta)
    g, lasting = None if g is None else aligned(g), None if lasting is None else aligned(lasting)
    saved = _outputs(q, k, v, g is not None, segments, train, lasting)
    output, last, inverse, scores, gates, errors, befores, transitions = saved
    tokens, heads, key_size, value_heads, value_size = *q.shape[1:], *v.shape[2:]
    rows = v.shape[0] * value_heads
    size = chunk(v.dtype)
    chunks, span, segments = _span(tokens, size, segments)
    plane = rows * chunks * size
    sizes = {"K": key_size, "C": size, "GATED": g is not None, "PRECISION": product_precision(v.dtype)}
    started = segments > 1 or initial_state is not None
    dtypes = v.dtype, beta.dtype, _kind(g), _kind(lasting)
    launch = launcher("gated_delta", q.device, *dtypes, key_size, value_size, segments > 1, started, train)
    keys, solve = token_tiles(k, size, key_size), flat_tiles(inverse, size)
    with on(q):
        chosen = tile("prepare", key_size, value_size, v.dtype)
        launch(
            prepare_kernel, rows * chunks, q, k, g, beta, lasting, inverse, scores, gates, scale,
            tokens, heads, value_heads, chunks, plane, **sizes, num_warps=chosen.warps, num_stages=chosen.stages,
        )  # fmt: skip
        starts = None if initial_state is None else aligned(initial_state.mT)
        if segments > 1:
            starts = q.new_empty((rows, segments, value_size, key_size), dtype=torch.float32)
            starts[:, 0] = 0.0 if initial_state is None else initial_state.flatten(0, 1).mT
            chosen = tile("segment", key_size, value_size, v.dtype)
            launch(
                segment_kernel, rows * segments * ((value_size + key_size) // chosen.columns),
                keys, token_tiles(v, size, chosen.columns), solve, gates, starts, transitions,
                tokens, heads, value_heads, chunks, segments, span, plane, V=value_size, BV=chosen.columns,
                **sizes, num_warps=chosen.warps, num_stages=chosen.stages,
            )  # fmt: skip
            _join(launch, transitions, starts, v.dtype, reverse=False)
        chosen = tile("output", key_size, value_size, v.dtype)
        launch(
            output_kernel, rows * segments * (value_size // chosen.columns), token_tiles(q, size, key_size), keys,
            token_tiles(v, size, chosen.columns), solve, flat_tiles(scores, size), gates, starts,
            output, flat_tiles(befores, chosen.columns) if train else None,
            *(flat_tiles(x, chosen.columns) if train and x is not None else None for x in _parts(errors)), last, scale,
            tokens, heads, value_heads, chunks, segments, span, plane, V=value_size, BV=chosen.columns,
            STARTED=started, TRAIN=train, **sizes, num_warps=chosen.warps, num_stages=chosen.stages,
        )  # fmt: skip
    return saved


def _fake_gated_delta(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    g: Tensor | None,
    beta: Tensor,
    initial_state: Tensor | None,
    scale: float,
    segments: int,
    train: bool,
    lasting: Tensor | None,
) -> Saved:
    return _outputs(q, k, v, g is not None, segments, train, lasting)


def _outputs(q: Tensor, k: Tensor, v: Tensor, gated: bool, segments: int, train: bool, lasting: Tensor | None) -> Saved:
    batch, tokens, value_heads, value_size = v.shape
    key_size, rows = k.shape[-1], batch * value_heads
    size = chunk(v.dtype)
    chunks, _, segments = _span(tokens, size, segments)
    kept = rows if train else 0
    # The gradient of `lasting` takes what rounding left of the errors as well.
    parts = 1 if lasting is None or v.dtype == torch.float32 else 2
    exact = torch.float32
    # Where nothing decays, roundings to bfloat16 add up to 1 %: see `triton_forward`.
    square = torch.float16 if v.dtype == torch.bfloat16 and not gated else v.dtype
    inverse = v.new_empty((rows, chunks, size, size), dtype=square)
    return (
        torch.empty_like(v, memory_format=torch.contiguous_format),
        v.new_empty((batch, value_heads, key_size, value_size), dtype=exact),
        inverse,
        torch.empty_like(inverse),
        v.new_empty((4, rows, chunks * size), dtype=exact),
        v.new_empty((parts, kept, chunks, value_size, size)),
        v.new_empty((kept, chunks, value_size, key_size)),
        v.new_empty((rows, segments, key_size, key_size) if segments > 1 else 0, dtype=exact),
    )


def _gated_delta_backward(
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
    lasting: Tensor | None,
) -> Gradients:
    """Gradients of q and k (for each value head: [B, T, HV, K]), v, g (float32), beta, the first state, `lasting`."""
    q, k, d_output = aligned(q), aligned(k), aligned(d_output)
    d_q, d_k, d_v, d_g, d_beta, d_initial, d_lasting = _gradients(q, v, beta, lasting)
    tokens, heads, key_size, value_heads, value_size = *q.shape[1:], *v.shape[2:]
    rows = v.shape[0] * value_heads
    size = chunk(v.dtype)
    chunks, span, segments = _span(tokens, size, segments)
    plane = rows * chunks * size
    d_afters = torch.empty_like(befores)
    sizes = {"K": key_size, "V": value_size, "C": size, "GATED": gated, "PRECISION": product_precision(v.dtype)}
    dtypes = v.dtype, beta.dtype, _kind(lasting)
    inputs = "gated_delta_backward", q.device, *dtypes, gated, key_size, value_size, segments > 1
    launch = launcher(*inputs, d_last is not None)
    with on(q):
        chosen = tile("values_backward", key_size, value_size, v.dtype)
        columns = value_size // chosen.columns
        d_ends = None if d_last is None else aligned(d_last.mT)
        queries, keys = token_tiles(q, size, key_size), token_tiles(k, size, key_size)
        solve, weights = flat_tiles(inverse, size), flat_tiles(scores, size)
        for alone in (True, False) if segments > 1 else (False,):
            if alone:
                d_ends = q.new_empty((rows, segments, value_size, key_size), dtype=torch.float32)
                d_ends[:, -1] = 0.0 if d_last is None else d_last.flatten(0, 1).mT
            (launcher(*inputs, "alone") if alone else launch)(
                values_backward_kernel, rows * (segments - alone) * columns, queries, keys, solve, weights, gates,
                token_tiles(d_output, size, chosen.columns), d_ends, d_v,
                None if alone else flat_tiles(d_afters, chosen.columns), d_initial, scale,
                tokens, heads, value_heads, chunks, segments, span, plane, BV=chosen.columns,
                ENDED=d_ends is not None, ALONE=alone, **sizes, num_warps=chosen.warps, num_stages=chosen.stages,
            )  # fmt: skip
            if alone and d_ends is not None:
                _join(launch, transitions, d_ends, v.dtype, reverse=True)
        routed = (None, None) if lasting is None else (aligned(lasting), d_lasting)
        large, rest = _parts(errors)
        chosen = tile("inputs_backward", key_size, value_size, v.dtype)
        d_scores, d_system = torch.empty_like(scores), torch.empty_like(scores)
        launch(
            inputs_backward_kernel, rows * chunks, q, k, scores, gates, d_output, d_v, large, befores, d_afters,
            d_scores, d_system, d_q, d_k, d_g, d_beta, scale, tokens, heads, value_heads, chunks, plane, *routed, rest,
            BK=chosen.columns, **sizes, num_warps=chosen.warps, num_stages=chosen.stages,
        )  # fmt: skip
    return d_q, d_k, d_v, d_g, d_beta, d_initial, d_lasting


def _fake_gated_delta_backward(
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
    lasting: Tensor | None,
) -> Gradients:
    return _gradients(q, v, beta, lasting)


def _gradients(q: Tensor, v: Tensor, beta: Tensor, lasting: Tensor | None) -> Gradients:
    batch, tokens, value_heads, value_size = v.shape
    d_q = q.new_empty((batch, tokens, value_heads, q.shape[-1]))
    return (
        d_q,
        torch.empty_like(d_q),
        torch.empty_like(v, memory_format=torch.contiguous_format),
        torch.empty_like(beta, dtype=torch.float32, memory_format=torch.contiguous_format),
        torch.empty_like(beta, memory_format=torch.contiguous_format),
        v.new_empty((batch, value_heads, q.shape[-1], value_size), dtype=torch.float32),
        v.new_empty(0 if lasting is None else lasting.shape, dtype=torch.float32),
    )


def _keep(ctx: Any, inputs: tuple[Any, ...], output: Saved) -> None:
    q, k, v, g, beta, initial_state, scale, segments, _, lasting = inputs
    ctx.set_materialize_grads(False)
    ctx.mark_non_differentiable(*output[2:])
    ctx.save_for_backward(q, k, v, beta, lasting, *output[2:])
    ctx.scale, ctx.segments, ctx.gated, ctx.started = scale, segments, g is not None, initial_state is not None


def _backward(ctx: Any, d_output: Tensor | None, d_last: Tensor | None, *_: None) -> tuple[Tensor | None, ...]:
    q, k, v, beta, lasting, *saved = ctx.saved_tensors
    d_output = torch.zeros_like(v) if d_output is None else d_output
    d_q, d_k, d_v, d_g, d_beta, d_initial, d_lasting = gated_delta_backward(
        d_output, d_last, q, k, v, beta, *saved, ctx.scale, ctx.segments, ctx.gated, lasting
    )
    groups = v.shape[2] // k.shape[2]
    if groups > 1:
        d_q, d_k = (x.view(*x.shape[:2], k.shape[2], groups, -1).sum(3) for x in (d_q, d_k))
    d_g, d_initial = d_g if ctx.gated else None, d_initial if ctx.started else None
    d_lasting = None if lasting is None else d_lasting.to(lasting.dtype)
    return d_q, d_k, d_v, d_g, d_beta, d_initial, None, None, None, d_lasting


def _kind(x: Tensor | None) -> torch.dtype | None:
    """What compiling depends on of a tensor that may be missing."""
    return None if x is None else x.dtype


def _parts(errors: Tensor) -> tuple[Tensor, Tensor | None]:
    """Errors and, where they are kept, what rounding left of them."""
    return (errors, None) if len(errors) == 1 else (errors[0], errors[1])


def _join(launch: Launcher, transitions: Tensor, states: Tensor, dtype: torch.dtype, *, reverse: bool) -> None:
    rows, segments, value_size, key_size = states.shape
    chosen = tile("join", key_size, value_size, dtype)
    launch(
        join_kernel, rows * (value_size // chosen.columns), transitions, states, segments,
        K=key_size, V=value_size, BV=chosen.columns, REVERSE=reverse, num_warps=chosen.warps, num_stages=chosen.stages,
    )  # fmt: skip


def _gated_delta_step(
    q: Tensor, k: Tensor, v: Tensor, g: Tensor | None, beta: Tensor, state: Tensor, scale: float
) -> tuple[Tensor, Tensor]:
    """Output [B, HV, V] and the new state."""
    q, k, v, beta, state = (x.contiguous() for x in (q, k, v, beta, state))
    output, after = torch.empty_like(v), torch.empty_like(state)
    batch, value_heads, value_size = v.shape
    key_size = k.shape[-1]
    columns = min(32, triton.next_power_of_2(value_size))
    with on(q):
        step_kernel[(batch * value_heads * -(-value_size // columns),)](
            q, k, v, None if g is None else g.contiguous(), beta, state, output, after, scale,
            k.shape[1], value_heads, key_size, value_size,
            K=triton.next_power_of_2(key_size), BV=columns, GATED=g is not None, num_warps=4,
        )  # fmt: skip
    return output, after


def _fake_gated_delta_step(
    q: Tensor, k: Tensor, v: Tensor, g: Tensor | None, beta: Tensor, state: Tensor, scale: float
) -> tuple[Tensor, Tensor]:
    return v.new_empty(v.shape), state.new_empty(state.shape)


gated_delta = define(
    "gated_delta",
    "(Tensor q, Tensor k, Tensor v, Tensor? g, Tensor beta, Tensor? initial_state, float scale, SymInt segments, "
    "bool train, Tensor? lasting) -> (Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor)",
    _gated_delta,
    _fake_gated_delta,
)
gated_delta_backward = define(
    "gated_delta_backward",
    "(Tensor d_output, Tensor? d_last, Tensor q, Tensor k, Tensor v, Tensor beta, Tensor inverse, Tensor scores, "
    "Tensor gates, Tensor errors, Tensor befores, Tensor transitions, float scale, SymInt segments, bool gated, "
    "Tensor? lasting) -> (Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor)",
    _gated_delta_backward,
    _fake_gated_delta_backward,
)
gated_delta_step = define(
    "gated_delta_step",
    "(Tensor q, Tensor k, Tensor v, Tensor? g, Tensor beta, Tensor state, float scale) -> (Tensor, Tensor)",
    _gated_delta_step,
    _fake_gated_delta_step,
)
differentiate("gated_delta", _keep, _backward, results=2)
