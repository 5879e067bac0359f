"""The operators of the delta rule with a decay a key channel: `hybridsearch::kimi_delta`, its backward pass, a step.

Two launches forwards, three or four backwards; two and two more where T is split. No host waits for the device, and no
size depends on data. Where T is split into segments, each is run from a zero state together with its transition before
a short scan gives it its true start.

Axes as in `triton_forward`: X = B HV, N chunks of C tokens.
"""

from functools import cache
from typing import Any

import torch
import triton
from torch import Tensor

from hybridsearch.kernels.descriptors import flat_tiles, product_precision, token_tiles
from hybridsearch.kernels.gated_delta.triton_forward import join_kernel
from hybridsearch.kernels.kimi_delta import tiles
from hybridsearch.kernels.kimi_delta.tiles import NEAR, chunk
from hybridsearch.kernels.kimi_delta.triton_backward import (
    errors_backward_kernel,
    inputs_backward_kernel,
    pairs_backward_kernel,
    steep_inputs_backward_kernel,
)
from hybridsearch.kernels.kimi_delta.triton_forward import (
    output_kernel,
    pairs_kernel,
    segment_kernel,
    solve_kernel,
    steep_pairs_kernel,
)
from hybridsearch.kernels.kimi_delta.triton_step import step_kernel
from hybridsearch.kernels.launches import Launcher, launcher
from hybridsearch.kernels.registration import aligned, define, differentiate, on

# Not in `tiles`: torch.compile traces who calls those from `fused`, and warns of caches.
tile = cache(tiles.tile)

Saved = tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]
Gradients = tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]


def _span(tokens: int, size: int, segments: int) -> tuple[int, int, int]:
    """Chunks of `size` tokens, chunks of a segment, and the segments that leaves."""
    chunks = -(-tokens // size)
    span = -(-chunks // segments)
    return chunks, span, -(-chunks // span)


def _kimi_delta(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    g: Tensor,
    beta: Tensor,
    initial_state: Tensor | None,
    scale: float,
    segments: int,
    train: bool,
) -> Saved:
    """Output, final state, and what the backward pass needs.

    These are gates, reads, erases, writes, P, A, errors and states before chunks (empty unless `train`), and
    transitions (empty unless there is more than one segment).
    """
    q, k, v, g, beta = aligned(q), aligned(k), aligned(v), aligned(g), aligned(beta)
    saved = _outputs(q, k, v, segments, train)
    output, last, gates, reads, erases, writes, scores, inverse, errors, befores, transitions = saved
    tokens, heads, key_size, value_heads, value_size = *q.shape[1:], *v.shape[2:]
    rows, size = v.shape[0] * value_heads, chunk(v.dtype)
    chunks, span, segments = _span(tokens, size, segments)
    near, lowest = NEAR[v.dtype]
    sizes = {"K": key_size, "V": value_size, "C": size, "PRECISION": product_precision(v.dtype)}
    started = segments > 1 or initial_state is not None
    dtypes = q.dtype, v.dtype, g.dtype, beta.dtype
    launch = launcher("kimi_delta", q.device, *dtypes, key_size, value_size, segments > 1, started, train)
    with on(q):
        # float16 has the mantissa of tf32, and with keys of length 1 and beta to 2 no entry is above 2
        system = scores.new_empty(scores.shape, dtype=torch.float32 if v.dtype == torch.float32 else torch.float16)
        chosen = tile("pairs", key_size, value_size, v.dtype)
        whole = sizes | {"BK": chosen.columns, "num_warps": chosen.warps, "num_stages": chosen.stages}
        del whole["V"]
        launch(
            pairs_kernel, rows * chunks, q, k, g, beta, gates, reads, erases, writes, scores, system, scale, lowest,
            tokens, heads, value_heads, chunks, **whole,
        )  # fmt: skip
        launch(
            steep_pairs_kernel, rows * chunks, q, k, beta, gates, scores, system, scale,
            tokens, heads, value_heads, chunks, NEAR=near, LEVELS=size.bit_length() - 1, **whole,
        )  # fmt: skip
        chosen = tile("solve", key_size, value_size, v.dtype)
        launch(
            solve_kernel, rows * chunks, system, erases, inverse,
            K=key_size, BK=chosen.columns, C=size, PRECISION=sizes["PRECISION"],
            num_warps=chosen.warps, num_stages=chosen.stages,
        )  # fmt: skip
        starts = None if initial_state is None else aligned(initial_state.mT)
        queries, erased, keys, solve, weights = (flat_tiles(x, size) for x in (reads, erases, writes, inverse, scores))
        if segments > 1:
            starts = q.new_empty((rows, segments, value_size, key_size), dtype=torch.float32)
            starts[:, 0] = 0.0 if initial_state is None else initial_state.flatten(0, 1).mT
            chosen = tile("segment", key_size, value_size, v.dtype)
            launch(
                segment_kernel, rows * segments * ((value_size + key_size) // chosen.columns),
                erased, keys, token_tiles(v, size, chosen.columns), solve, gates, starts, transitions,
                tokens, value_heads, chunks, segments, span,
                BV=chosen.columns, **sizes, num_warps=chosen.warps, num_stages=chosen.stages,
            )  # fmt: skip
            _join(launch, transitions, starts, v.dtype, reverse=False)
        chosen = tile("output", key_size, value_size, v.dtype)
        launch(
            output_kernel, rows * segments * (value_size // chosen.columns),
            queries, erased, keys, token_tiles(v, size, chosen.columns), solve, weights,
            flat_tiles(errors, chosen.columns) if train else None, gates, starts, output,
            flat_tiles(befores, chosen.columns) if train else None, last, tokens, value_heads, chunks, segments, span,
            BV=chosen.columns, STARTED=started, TRAIN=train,
            **sizes, num_warps=chosen.warps, num_stages=chosen.stages,
        )  # fmt: skip
    return saved


def _fake_kimi_delta(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    g: Tensor,
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
    size = chunk(v.dtype)
    chunks, _, segments = _span(tokens, size, segments)
    kept = rows if train else 0
    exact = torch.float32
    return (
        v.new_empty(v.shape),
        v.new_empty((batch, value_heads, key_size, value_size), dtype=exact),
        v.new_empty((rows, chunks, size, key_size), dtype=exact),
        v.new_empty((rows, chunks, size, key_size)),
        v.new_empty((rows, chunks, size, key_size)),
        v.new_empty((rows, chunks, size, key_size)),
        v.new_empty((rows, chunks, size, size)),
        v.new_empty((rows, chunks, size, size)),
        v.new_empty((kept, chunks, value_size, size)),
        v.new_empty((kept, chunks, value_size, key_size)),
        v.new_empty((rows if segments > 1 else 0, segments, key_size, key_size), dtype=exact),
    )


def _kimi_delta_backward(
    d_output: Tensor,
    d_last: Tensor | None,
    q: Tensor,
    k: Tensor,
    beta: Tensor,
    gates: Tensor,
    reads: Tensor,
    erases: Tensor,
    writes: Tensor,
    scores: Tensor,
    inverse: Tensor,
    errors: Tensor,
    befores: Tensor,
    transitions: Tensor,
    scale: float,
    segments: int,
) -> Gradients:
    """Gradients of q and k (for each value head: [B, T, HV, K]), v, and in float32 of g, beta and the initial state."""
    q, k, beta, d_output = aligned(q), aligned(k), aligned(beta), aligned(d_output)
    d_q, d_k, d_v, d_g, d_beta, d_initial = gradients = _gradients(q, d_output, beta)
    tokens, heads, key_size, value_heads, value_size = *q.shape[1:], *d_output.shape[2:]
    kind = d_output.dtype
    rows, size = d_output.shape[0] * value_heads, chunk(kind)
    chunks, span, segments = _span(tokens, size, segments)
    d_afters, d_errors = torch.empty_like(befores), torch.empty_like(errors)
    sizes = {"K": key_size, "V": value_size, "C": size, "PRECISION": product_precision(kind)}
    inputs = "kimi_delta_backward", q.device, q.dtype, kind, beta.dtype, key_size, value_size, segments > 1
    launch = launcher(*inputs, d_last is not None)
    with on(q):
        chosen = tile("errors_backward", key_size, value_size, kind)
        columns = value_size // chosen.columns
        d_ends = None if d_last is None else aligned(d_last.mT)
        queries, erased, keys, weights = (flat_tiles(x, size) for x in (reads, erases, writes, scores))
        for alone in (True, False) if segments > 1 else (False,):
            if alone:
                d_ends = q.new_empty((rows, segments, value_size, key_size), dtype=torch.float32)
                d_ends[:, -1] = 0.0 if d_last is None else d_last.flatten(0, 1).mT
            kept = (None, None) if alone else (flat_tiles(x, chosen.columns) for x in (d_errors, d_afters))
            (launcher(*inputs, "alone") if alone else launch)(
                errors_backward_kernel, rows * (segments - alone) * columns,
                queries, erased, keys, weights, gates, token_tiles(d_output, size, chosen.columns), d_ends, *kept,
                d_initial, value_heads, chunks, segments, span, BV=chosen.columns, ENDED=d_ends is not None,
                ALONE=alone, **sizes, num_warps=chosen.warps, num_stages=chosen.stages,
            )  # fmt: skip
            if alone and d_ends is not None:
                _join(launch, transitions, d_ends, kind, reverse=True)
        chosen = tile("pairs_backward", key_size, value_size, kind)
        d_scores, d_system = torch.empty_like(scores), torch.empty_like(scores)
        launch(
            pairs_backward_kernel, rows * chunks,
            inverse, errors, d_errors, d_output, d_v, d_scores, d_system, scale, tokens, value_heads, chunks,
            V=value_size, C=size, PRECISION=product_precision(kind), num_warps=chosen.warps, num_stages=chosen.stages,
        )  # fmt: skip
        chosen = tile("inputs_backward", key_size, value_size, kind)
        parts = key_size // chosen.columns
        d_strength = d_beta if parts == 1 else d_beta.new_empty((parts, *d_beta.shape))
        steep = tile("steep_inputs_backward", key_size, value_size, kind)
        for kernel, warps in (inputs_backward_kernel, chosen.warps), (steep_inputs_backward_kernel, steep.warps):
            launch(
                kernel, rows * chunks * parts,
                q, k, beta, gates, errors, d_output, d_v, d_scores, d_system, befores, d_afters,
                d_q, d_k, d_g, d_strength, scale, tokens, heads, value_heads, chunks, d_beta.numel(),
                BK=chosen.columns, NEAR=NEAR[kind][0], LEVELS=size.bit_length() - 1,
                **sizes, num_warps=warps, num_stages=chosen.stages,
            )  # fmt: skip
        if parts > 1:
            torch.sum(d_strength, 0, out=d_beta)
    return gradients


def _fake_kimi_delta_backward(
    d_output: Tensor,
    d_last: Tensor | None,
    q: Tensor,
    k: Tensor,
    beta: Tensor,
    gates: Tensor,
    reads: Tensor,
    erases: Tensor,
    writes: Tensor,
    scores: Tensor,
    inverse: Tensor,
    errors: Tensor,
    befores: Tensor,
    transitions: Tensor,
    scale: float,
    segments: int,
) -> Gradients:
    return _gradients(q, d_output, beta)


def _gradients(q: Tensor, d_output: Tensor, beta: Tensor) -> Gradients:
    batch, tokens, value_heads, value_size = d_output.shape
    shares = (batch, tokens, value_heads, q.shape[-1])
    return (
        q.new_empty(shares),
        q.new_empty(shares),
        d_output.new_empty(d_output.shape),
        q.new_empty(shares, dtype=torch.float32),
        beta.new_empty((batch, tokens, value_heads), dtype=torch.float32),
        q.new_empty((batch, value_heads, q.shape[-1], value_size), dtype=torch.float32),
    )


def _keep(ctx: Any, inputs: tuple[Any, ...], output: Saved) -> None:
    q, k, _, _, beta, initial_state, scale, segments, _ = inputs
    ctx.set_materialize_grads(False)
    ctx.mark_non_differentiable(*output[2:])
    ctx.save_for_backward(q, k, beta, *output[2:])
    ctx.shape, ctx.kind = output[0].shape, output[0].dtype
    ctx.scale, ctx.segments, ctx.started = scale, segments, initial_state is not None


def _backward(ctx: Any, d_output: Tensor | None, d_last: Tensor | None, *_: None) -> tuple[Tensor | None, ...]:
    q, k, beta, *saved = ctx.saved_tensors
    d_output = q.new_zeros(ctx.shape, dtype=ctx.kind) if d_output is None else d_output
    d_q, d_k, d_v, d_g, d_beta, d_initial = kimi_delta_backward(
        d_output, d_last, q, k, beta, *saved, ctx.scale, ctx.segments
    )
    groups = d_q.shape[2] // k.shape[2]
    if groups > 1:
        d_q, d_k = (x.view(*x.shape[:2], k.shape[2], groups, -1).sum(3) for x in (d_q, d_k))
    d_beta = d_beta.to(beta.dtype)
    return d_q, d_k, d_v, d_g, d_beta, d_initial if ctx.started else None, None, None, None


def _join(launch: Launcher, transitions: Tensor, states: Tensor, dtype: torch.dtype, *, reverse: bool) -> None:
    rows, segments, value_size, key_size = states.shape
    chosen = tile("join", key_size, value_size, dtype)
    launch(
        join_kernel, rows * (value_size // chosen.columns), transitions, states, segments,
        K=key_size, V=value_size, BV=chosen.columns, REVERSE=reverse, num_warps=chosen.warps, num_stages=chosen.stages,
    )  # fmt: skip


def _kimi_delta_step(
    q: Tensor, k: Tensor, v: Tensor, g: Tensor, beta: Tensor, state: Tensor, scale: float
) -> tuple[Tensor, Tensor]:
    """Output [B, HV, V] and the new state."""
    q, k, v, g, beta, state = (x.contiguous() for x in (q, k, v, g, beta, state))
    output, after = torch.empty_like(v), torch.empty_like(state)
    batch, value_heads, value_size = v.shape
    key_size = k.shape[-1]
    columns = min(32, triton.next_power_of_2(value_size))
    with on(q):
        step_kernel[(batch * value_heads * -(-value_size // columns),)](
            q, k, v, g, beta, state, output, after, scale, k.shape[1], value_heads, key_size, value_size,
            K=triton.next_power_of_2(key_size), BV=columns, num_warps=4,
        )  # fmt: skip
    return output, after


def _fake_kimi_delta_step(
    q: Tensor, k: Tensor, v: Tensor, g: Tensor, beta: Tensor, state: Tensor, scale: float
) -> tuple[Tensor, Tensor]:
    return v.new_empty(v.shape), state.new_empty(state.shape)


kimi_delta = define(
    "kimi_delta",
    "(Tensor q, Tensor k, Tensor v, Tensor g, Tensor beta, Tensor? initial_state, float scale, SymInt segments, "
    f"bool train) -> ({', '.join(['Tensor'] * 11)})",
    _kimi_delta,
    _fake_kimi_delta,
)
kimi_delta_backward = define(
    "kimi_delta_backward",
    "(Tensor d_output, Tensor? d_last, Tensor q, Tensor k, Tensor beta, Tensor gates, Tensor reads, Tensor erases, "
    "Tensor writes, Tensor scores, Tensor inverse, Tensor errors, Tensor befores, Tensor transitions, float scale, "
    "SymInt segments) -> (Tensor, Tensor, Tensor, Tensor, Tensor, Tensor)",
    _kimi_delta_backward,
    _fake_kimi_delta_backward,
)
kimi_delta_step = define(
    "kimi_delta_step",
    "(Tensor q, Tensor k, Tensor v, Tensor g, Tensor beta, Tensor state, float scale) -> (Tensor, Tensor)",
    _kimi_delta_step,
    _fake_kimi_delta_step,
)
differentiate("kimi_delta", _keep, _backward, results=2)
