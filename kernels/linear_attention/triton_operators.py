# mypy: ignore-errors
# (What torch registers and what Triton launches is not typed.)
"""The operators of gated linear attention: two launches forwards, two backwards, four more where T is split.

`hybridsearch::gated_linear` and `hybridsearch::gated_linear_backward` are opaque to torch.compile (no graph break) and
can stand in a CUDA graph: no host waits for the device, no size depends on data. Where heads are few, T is split: what
every segment adds to a state is found first, a short scan gives each segment the state it starts from.
"""

import torch
from torch import Tensor
from triton.tools.tensor_descriptor import TensorDescriptor

from hybridsearch.kernels.descriptors import flat_tiles, product_precision, token_tiles
from hybridsearch.kernels.launches import Launcher, launcher
from hybridsearch.kernels.linear_attention.triton_backward import (
    channel_inputs_backward_kernel,
    inputs_backward_kernel,
    values_backward_kernel,
)
from hybridsearch.kernels.linear_attention.triton_forward import (
    GATE_CHUNKS,
    gates_kernel,
    join_kernel,
    output_kernel,
    prepare_kernel,
    segment_kernel,
)
from hybridsearch.kernels.linear_attention.triton_step import step_kernel
from hybridsearch.kernels.linear_attention.triton_tiles import chunk, power_of_two, tile, top_level
from hybridsearch.kernels.registration import aligned, define, differentiate, multiprocessors, on

SHORTEST_SEGMENT = 512
"""Tokens; a shorter segment would move more state than tokens."""

NEAR = {torch.bfloat16: (3, -10.0), torch.float32: (2, -16.0)}
"""Log2 of the tokens that the smallest blocks of channel decays have to their border, and the log decay below which one
counts as this: what it lets through, exp(-10) = 5e-5 or exp(-16) = 1e-7, is far below what the dtype rounds off, and
its eight or four fold, exp(80) or exp(64), far below the largest float32."""

Saved = tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]
Gradients = tuple[Tensor, Tensor, Tensor, Tensor, Tensor]


def _segments(k: Tensor, v: Tensor, *, vector: bool) -> int:
    """Segments that give each multiprocessor of the device two programs.

    1 if T is short, and with channel decays, whose tokens are dearer to read twice, where heads occupy half the device.
    """
    if v.device.type != "cuda":
        return 1
    name = "channel_output" if vector else "output"
    programs = v.shape[0] * v.shape[2] * (v.shape[3] // tile(name, k.shape[3], v.shape[3], v.dtype).columns)
    processors = multiprocessors(v.device)
    if vector and 20 * programs >= 9 * processors:
        return 1
    length = chunk(k.shape[3], v.dtype)
    return max(1, min(2 * processors // programs, -(-v.shape[1] // length) * length // SHORTEST_SEGMENT))


def _span(tokens: int, segments: int, length: int) -> tuple[int, int, int]:
    """Chunks of `length` tokens, chunks of a segment, and the segments that leaves."""
    chunks = -(-tokens // length)
    span = -(-chunks // segments)
    return chunks, span, -(-chunks // span)


def _gated_linear(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    g: Tensor,
    initial_state: Tensor | None,
    scale: float,
    segments: int,
    train: bool,
) -> Saved:
    """Output, final state, and what the backward pass needs: gates, reads, writes, A and the states before each chunk.

    Reads, writes and A are empty with one decay a head, the states unless `train`. No `segments` (0): as many as serve.
    """
    q, k, v, g = (aligned(x) for x in (q, k, v, g))
    vector = g.dim() == 4
    output, last, gates, reads, writes, scores, befores = _outputs(q, k, v, train, vector)
    batch, tokens, heads, key_size = q.shape
    value_size, rows, length = v.shape[-1], batch * heads, chunk(key_size, v.dtype)
    chunks, span, segments = _span(tokens, segments or _segments(k, v, vector=vector), length)
    plane = rows * chunks * length
    sizes = {"K": key_size, "V": value_size, "C": length, "VECTOR": vector, "PRECISION": product_precision(v.dtype)}
    started = segments > 1 or initial_state is not None
    launch = _launcher("gated_linear", q, v, g.dtype, vector, plane, segments > 1, started, train)
    with on(q):
        if vector:
            near, lowest = NEAR[v.dtype]
            chosen = tile("prepare", key_size, value_size, v.dtype)
            launch(
                prepare_kernel, rows * chunks, q, k, g, gates, reads, writes, scores, scale, lowest,
                tokens, heads, chunks, plane * key_size, K=key_size, C=length, TOP=top_level(length), NEAR=near,
                PRECISION=product_precision(v.dtype), num_warps=chosen.warps, num_stages=chosen.stages,
            )  # fmt: skip
            queries, keys, weights = (flat_tiles(x, length) for x in (reads, writes, scores))
        else:
            launch(
                gates_kernel, rows * -(-chunks // GATE_CHUNKS.value), g, gates, scale, tokens, heads, chunks, plane,
                C=length, num_warps=4,
            )  # fmt: skip
            queries, keys, weights = token_tiles(q, length, key_size), token_tiles(k, length, key_size), None
        starts = None if initial_state is None else aligned(initial_state.mT)
        if segments > 1:
            starts = _edges(launch, keys, v, gates, initial_state, segments, span, sizes, reverse=False)
        chosen = tile("channel_output" if vector else "output", key_size, value_size, v.dtype)
        launch(
            output_kernel, rows * segments * (value_size // chosen.columns),
            queries, keys, token_tiles(v, length, chosen.columns), weights, gates, starts, output,
            flat_tiles(befores, chosen.columns, key_size) if train else None, last, scale,
            tokens, heads, chunks, segments, span, plane, BV=chosen.columns, STARTED=started, TRAIN=train,
            **sizes, num_warps=chosen.warps, num_stages=chosen.stages,
        )  # fmt: skip
    return output, last, gates, reads, writes, scores, befores


def _fake_gated_linear(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    g: Tensor,
    initial_state: Tensor | None,
    scale: float,
    segments: int,
    train: bool,
) -> Saved:
    return _outputs(q, k, v, train, g.dim() == 4)


def _outputs(q: Tensor, k: Tensor, v: Tensor, train: bool, vector: bool) -> Saved:
    batch, tokens, heads, value_size = v.shape
    key_size, rows = k.shape[-1], batch * heads
    length = chunk(key_size, v.dtype)
    padded = -(-tokens // length) * length
    with_scores = rows if vector else 0
    planes = 2 if v.dtype == torch.float32 else 1
    gates = (planes, rows, padded, key_size) if vector else (4, rows, padded)
    return (
        v.new_empty(v.shape),
        v.new_empty((batch, heads, key_size, value_size), dtype=torch.float32),
        v.new_empty(gates, dtype=torch.float32),
        v.new_empty((with_scores, padded, key_size)),
        v.new_empty((with_scores, padded, key_size)),
        v.new_empty((with_scores, padded, length)),
        v.new_empty((rows if train else 0, padded // length * value_size, key_size)),
    )


def _gated_linear_backward(
    d_output: Tensor,
    d_last: Tensor | None,
    q: Tensor,
    k: Tensor,
    v: Tensor,
    gates: Tensor,
    reads: Tensor,
    writes: Tensor,
    scores: Tensor,
    befores: Tensor,
    scale: float,
    segments: int,
    vector: bool,
) -> Gradients:
    """Gradients of q, k, v, g (float32) and the initial state."""
    q, k, v, d_output = (aligned(x) for x in (q, k, v, d_output))
    d_q, d_k, d_v, d_g, d_initial = _gradients(q, k, v, vector)
    batch, tokens, heads, key_size = q.shape
    value_size, rows, length = v.shape[-1], batch * heads, chunk(key_size, v.dtype)
    chunks, span, segments = _span(tokens, segments or _segments(k, v, vector=vector), length)
    plane = rows * chunks * length
    d_afters = torch.empty_like(befores)
    sizes = {"K": key_size, "V": value_size, "C": length, "VECTOR": vector, "PRECISION": product_precision(v.dtype)}
    launch = _launcher("gated_linear_backward", q, v, None, vector, plane, segments > 1, d_last is not None, True)
    with on(q):
        if vector:
            queries, keys, weights = (flat_tiles(x, length) for x in (reads, writes, scores))
        else:
            queries, keys, weights = token_tiles(q, length, key_size), token_tiles(k, length, key_size), None
        d_ends = None if d_last is None else aligned(d_last.mT)
        if segments > 1:
            d_ends = _edges(launch, queries, d_output, gates, d_last, segments, span, sizes, reverse=True)
        chosen = tile("channel_values_backward" if vector else "values_backward", key_size, value_size, v.dtype)
        launch(
            values_backward_kernel, rows * segments * (value_size // chosen.columns),
            queries, keys, weights, gates, token_tiles(d_output, length, chosen.columns), d_ends, d_v,
            flat_tiles(d_afters, chosen.columns, key_size), d_initial, scale,
            tokens, heads, chunks, segments, span, plane, BV=chosen.columns, ENDED=d_ends is not None,
            **sizes, num_warps=chosen.warps, num_stages=chosen.stages,
        )  # fmt: skip
        chosen = tile("channel_inputs_backward" if vector else "inputs_backward", key_size, value_size, v.dtype)
        del sizes["VECTOR"]
        sizes |= {"BK": chosen.columns, "num_warps": chosen.warps, "num_stages": chosen.stages}
        if vector:
            programs = rows * chunks * (key_size // chosen.columns)
            at_ends = gates.new_empty((rows * chunks, key_size))
            results = (token_tiles(x, length, chosen.columns) for x in (d_q, d_k, d_g))
            results = (*results, at_ends, scale, tokens, heads, chunks)
            sizes |= {"NEAR": NEAR[v.dtype][0], "TOP": top_level(length)}
            given = (q, k, v, gates, d_output, befores, d_afters)
            launch(channel_inputs_backward_kernel, programs, *given, *results, plane * key_size, **sizes)
        else:
            tiles = (token_tiles(x, length, chosen.columns) for x in (q, k))
            states = (flat_tiles(x, value_size, chosen.columns) for x in (befores, d_afters))
            outputs = (token_tiles(v, length, value_size), gates, token_tiles(d_output, length, value_size))
            results = (*(token_tiles(x, length, chosen.columns) for x in (d_q, d_k)), d_g, scale, tokens, heads, chunks)
            launch(inputs_backward_kernel, rows * chunks, *tiles, *outputs, *states, *results, plane, **sizes)
    return d_q, d_k, d_v, d_g, d_initial


def _fake_gated_linear_backward(
    d_output: Tensor,
    d_last: Tensor | None,
    q: Tensor,
    k: Tensor,
    v: Tensor,
    gates: Tensor,
    reads: Tensor,
    writes: Tensor,
    scores: Tensor,
    befores: Tensor,
    scale: float,
    segments: int,
    vector: bool,
) -> Gradients:
    return _gradients(q, k, v, vector)


def _gradients(q: Tensor, k: Tensor, v: Tensor, vector: bool) -> Gradients:
    batch, tokens, heads, key_size = q.shape
    return (
        q.new_empty(q.shape),
        k.new_empty(k.shape),
        v.new_empty(v.shape),
        v.new_empty(q.shape if vector else (batch, tokens, heads), dtype=torch.float32),
        v.new_empty((batch, heads, key_size, v.shape[-1]), dtype=torch.float32),
    )


def _keep(ctx: torch.autograd.function.FunctionCtx, inputs: tuple, output: Saved) -> None:
    q, k, v, g, initial_state, scale, segments, _ = inputs
    ctx.set_materialize_grads(False)
    ctx.mark_non_differentiable(*output[2:])
    ctx.save_for_backward(q, k, v, *output[2:])
    ctx.scale, ctx.segments, ctx.vector, ctx.started = scale, segments, g.dim() == 4, initial_state is not None


def _backward(
    ctx: torch.autograd.function.FunctionCtx, d_output: Tensor | None, d_last: Tensor | None, *_: None
) -> tuple:
    q, k, v, *saved = ctx.saved_tensors
    d_output = torch.zeros_like(v) if d_output is None else d_output
    *gradients, d_initial = gated_linear_backward(
        d_output, d_last, q, k, v, *saved, ctx.scale, ctx.segments, ctx.vector
    )
    return *gradients, d_initial if ctx.started else None, None, None, None


def _launcher(name: str, q: Tensor, v: Tensor, decay: torch.dtype | None, vector: bool, plane: int, *rest) -> Launcher:
    # Triton takes a number from 2**31 on for an int64.
    large = plane * q.shape[-1] >= 2**31
    return launcher(name, q.device, v.dtype, decay, q.shape[-1], v.shape[-1], vector, large, *rest)


def _edges(
    launch: Launcher,
    keys: TensorDescriptor,
    values: Tensor,
    gates: Tensor,
    given: Tensor | None,
    segments: int,
    span: int,
    sizes: dict,
    *,
    reverse: bool,
) -> Tensor:
    """The state each segment starts from [X, P, V, K]; reversed, the gradient of the state each segment ends with."""
    batch, tokens, heads, value_size = values.shape
    rows, length, key_size = batch * heads, sizes["C"], sizes["K"]
    chunks = -(-tokens // length)
    edges = gates.new_empty((rows, segments, value_size, key_size))
    edges[:, -1 if reverse else 0] = 0.0 if given is None else given.flatten(0, 1).mT
    totals = gates.new_empty((rows, segments, key_size))
    chosen = tile("segment", key_size, value_size, values.dtype)
    launch(
        segment_kernel, rows * (segments - 1) * (value_size // chosen.columns),
        keys, token_tiles(values, length, chosen.columns), gates, edges, totals, heads, chunks, segments, span,
        rows * chunks * length, BV=chosen.columns, REVERSE=reverse, **sizes,
        num_warps=chosen.warps, num_stages=chosen.stages,
    )  # fmt: skip
    chosen = tile("join", key_size, value_size, values.dtype)
    launch(
        join_kernel, rows * (value_size // chosen.columns), totals, edges, segments,
        K=key_size, V=value_size, BV=chosen.columns, REVERSE=reverse, num_warps=chosen.warps, num_stages=chosen.stages,
    )  # fmt: skip
    return edges


def _linear_step(q: Tensor, k: Tensor, v: Tensor, g: Tensor, state: Tensor, scale: float) -> tuple[Tensor, Tensor]:
    """Output [B, H, V] and the new state."""
    q, k, v, g, state = (x.contiguous() for x in (q, k, v, g, state))
    output, after = torch.empty_like(v), torch.empty_like(state)
    batch, heads, value_size = v.shape
    key_size = k.shape[-1]
    columns = min(32, power_of_two(value_size))
    with on(q):
        step_kernel[(batch * heads * -(-value_size // columns),)](
            q, k, v, g, state, output, after, scale, key_size, value_size,
            K=power_of_two(key_size), BV=columns, VECTOR=g.dim() == 3, num_warps=4,
        )  # fmt: skip
    return output, after


def _fake_linear_step(q: Tensor, k: Tensor, v: Tensor, g: Tensor, state: Tensor, scale: float) -> tuple[Tensor, Tensor]:
    return v.new_empty(v.shape), state.new_empty(state.shape)


gated_linear = define(
    "gated_linear",
    "(Tensor q, Tensor k, Tensor v, Tensor g, Tensor? initial_state, float scale, int segments, bool train)"
    " -> (Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor)",
    _gated_linear,
    _fake_gated_linear,
)
gated_linear_backward = define(
    "gated_linear_backward",
    "(Tensor d_output, Tensor? d_last, Tensor q, Tensor k, Tensor v, Tensor gates, Tensor reads, Tensor writes,"
    " Tensor scores, Tensor befores, float scale, int segments, bool vector)"
    " -> (Tensor, Tensor, Tensor, Tensor, Tensor)",
    _gated_linear_backward,
    _fake_gated_linear_backward,
)
linear_step = define(
    "gated_linear_step",
    "(Tensor q, Tensor k, Tensor v, Tensor g, Tensor state, float scale) -> (Tensor, Tensor)",
    _linear_step,
    _fake_linear_step,
)
differentiate("gated_linear", _keep, _backward, results=2)
