"""The softmax branch of token routing as operators of torch: training, its backward pass, and one decoding step.

Two launches forwards, two backwards. Opaque to torch.compile (no graph break), and fit for a CUDA graph: the device
itself lists the blocks to read, no host waits for it, and no size depends on data.
"""

from typing import Any, NamedTuple

import torch
import triton
from torch import Tensor
from triton.tools.tensor_descriptor import TensorDescriptor

from hybridsearch.kernels.descriptors import product_precision, token_tiles
from hybridsearch.kernels.registration import aligned, define, differentiate, on
from hybridsearch.kernels.token_routing.triton_attention import (
    BLOCK,
    forward_kernel,
    keys_backward_kernel,
    list_kernel,
    queries_backward_kernel,
)
from hybridsearch.kernels.token_routing.triton_step import merge_kernel, page_kernel

PADDING = 128
"""Rows are padded to a multiple of this: the most queries of a tile."""

LISTED = 256
"""Blocks that the kernel which lists them looks at together."""

LONG = 8192
"""Tokens from which larger tiles pay: at 4096 they take 228 us for 200, at 65536 4226 us for 4984 (H200, D 128)."""

Saved = tuple[Tensor, Tensor, Tensor, Tensor]
Gradients = tuple[Tensor, Tensor, Tensor, Tensor]


class Tile(NamedTuple):
    """How one kernel runs."""

    queries: int
    """Queries that a program works on at a time."""
    warps: int
    stages: int
    """Blocks in flight of the software pipeline."""
    registers: int | None = None
    """The most that a thread may have; none leaves it to the compiler."""


# Chunks of 64; keys: the largest of key and value size that the choice serves.
TILES = {
    "forward": {64: Tile(128, 8, 3), 128: Tile(64, 4, 1, 128)},
    "long_forward": {64: Tile(128, 8, 3), 128: Tile(128, 8, 2, 128)},
    "queries_backward": {64: Tile(64, 4, 3), 128: Tile(64, 4, 2)},
    "keys_backward": {128: Tile(64, 4, 2)},
}
# Other chunks. A tile of queries holds whole chunks: what is before it is in the list, or is not seen.
OTHER_CHUNKS = {
    "forward": {64: Tile(128, 4, 3), 128: Tile(128, 8, 3)},
    "queries_backward": {128: Tile(128, 8, 2)},
    "keys_backward": {64: Tile(64, 4, 3), 128: Tile(64, 4, 2)},
}


def _routed_softmax(q: Tensor, k: Tensor, v: Tensor, gate: Tensor, scale: float, chunk: int, reads_own: bool) -> Saved:
    """Output, sums, the listed blocks and how many lie before each; `gate` [B, N, H] is 1 for softmax-typed chunks."""
    q, k, v, gate = aligned(q), aligned(k), aligned(v), gate.contiguous()
    output, sums, listed, before = _outputs(q, v, gate)
    sizes = _sizes(q, v, chunk, reads_own)
    chosen = tile("long_forward" if chunk == 64 and q.shape[1] > LONG else "forward", q, v, chunk)
    rows, padded = sums.shape
    with on(q):
        list_kernel[(listed.shape[0],)](
            gate, listed, before, gate.shape[2], gate.shape[1], listed.shape[1], C=chunk, SIZE=LISTED, num_warps=4
        )
        forward_kernel[(rows * (padded // chosen.queries),)](
            _tokens(q, chosen.queries), _tokens(k), _tokens(v), gate, listed, before, _tokens(output, chosen.queries),
            sums, scale,
            q.shape[1], q.shape[2], gate.shape[2], gate.shape[1], listed.shape[1], padded, rows,
            BQ=chosen.queries, **sizes, num_warps=chosen.warps, num_stages=chosen.stages, maxnreg=chosen.registers,
        )  # fmt: skip
    return output, sums, listed, before


def _fake_routed_softmax(
    q: Tensor, k: Tensor, v: Tensor, gate: Tensor, scale: float, chunk: int, reads_own: bool
) -> Saved:
    return _outputs(q, v, gate)


def _outputs(q: Tensor, v: Tensor, gate: Tensor) -> Saved:
    batch, tokens, heads, _ = q.shape
    lists, blocks = batch * gate.shape[2], -(-tokens // BLOCK.value)
    return (
        v.new_empty(v.shape),
        v.new_empty((batch * heads, -(-tokens // PADDING) * PADDING), dtype=torch.float32),
        v.new_empty((lists, blocks), dtype=torch.int32),
        v.new_empty((lists, blocks + 1), dtype=torch.int32),
    )


def _routed_softmax_backward(
    d_output: Tensor,
    q: Tensor,
    k: Tensor,
    v: Tensor,
    gate: Tensor,
    output: Tensor,
    sums: Tensor,
    listed: Tensor,
    before: Tensor,
    scale: float,
    chunk: int,
    reads_own: bool,
) -> Gradients:
    """Gradients of q, k and v, and for each softmax head that of the gate, [B, A, N]."""
    q, k, v, d_output, gate = aligned(q), aligned(k), aligned(v), aligned(d_output), gate.contiguous()
    d_q, d_k, d_v, columns = _gradients(q, k, v, gate, chunk)
    sizes = _sizes(q, v, chunk, reads_own)
    deltas = torch.empty_like(sums)
    rows, padded = sums.shape
    with on(q):
        chosen = tile("queries_backward", q, v, chunk)
        queries = chosen.queries
        queries_backward_kernel[(rows * (padded // queries),)](
            _tokens(q, queries), _tokens(k), _tokens(v), gate, listed, before, _tokens(output, queries),
            _tokens(d_output, queries), sums, deltas, _tokens(d_q, queries), scale,
            q.shape[1], q.shape[2], gate.shape[2], gate.shape[1], listed.shape[1], padded, rows,
            BQ=queries, **sizes, num_warps=chosen.warps, num_stages=chosen.stages,
        )  # fmt: skip
        chosen = tile("keys_backward", q, v, chunk)
        queries = chosen.queries
        keys_backward_kernel[(rows * listed.shape[1],)](
            _tokens(q, queries), _tokens(k), _tokens(v), gate, _tokens(d_output, queries), sums, deltas,
            d_k, d_v, columns, scale,
            q.shape[1], q.shape[2], gate.shape[2], gate.shape[1], listed.shape[1], padded, rows,
            BQ=queries, **sizes, num_warps=chosen.warps, num_stages=chosen.stages,
        )  # fmt: skip
    return d_q, d_k, d_v, columns


def _fake_routed_softmax_backward(
    d_output: Tensor,
    q: Tensor,
    k: Tensor,
    v: Tensor,
    gate: Tensor,
    output: Tensor,
    sums: Tensor,
    listed: Tensor,
    before: Tensor,
    scale: float,
    chunk: int,
    reads_own: bool,
) -> Gradients:
    return _gradients(q, k, v, gate, chunk)


def _gradients(q: Tensor, k: Tensor, v: Tensor, gate: Tensor, chunk: int) -> Gradients:
    columns = q.new_empty((q.shape[0], q.shape[2], gate.shape[1] * chunk), dtype=torch.float32)
    return q.new_empty(q.shape), k.new_empty(k.shape), v.new_empty(v.shape), columns


def _keep(ctx: Any, inputs: tuple[Any, ...], output: Saved) -> None:
    q, k, v, gate, ctx.scale, ctx.chunk, ctx.reads_own = inputs
    ctx.mark_non_differentiable(*output[1:])
    ctx.set_materialize_grads(False)
    ctx.save_for_backward(q, k, v, gate, *output)


def _backward(ctx: Any, d_output: Tensor | None, *_: None) -> tuple[Tensor | None, ...]:
    if d_output is None:
        return (None,) * 7
    gate = ctx.saved_tensors[3]
    d_q, d_k, d_v, columns = routed_softmax_backward(d_output, *ctx.saved_tensors, ctx.scale, ctx.chunk, ctx.reads_own)
    return d_q, d_k, d_v, gate_gradient(columns, gate, ctx.chunk), None, None, None


def gate_gradient(columns: Tensor, gate: Tensor, chunk: int) -> Tensor:
    """The sum over the softmax heads that follow a linear head and the tokens of a chunk; 0 where the gate is."""
    batch, chunks, linear_heads = gate.shape
    group = columns.shape[1] // linear_heads
    d_gate = columns.view(batch, linear_heads, group, chunks, chunk).sum((2, 4)).transpose(1, 2)
    return (d_gate * (gate > 0.5)).to(gate.dtype)


def tile(kernel: str, q: Tensor, v: Tensor, chunk: int) -> Tile:
    """The tile of a kernel for the sizes of q and v."""
    size, tiles = max(q.shape[-1], v.shape[-1]), TILES if chunk == 64 else OTHER_CHUNKS
    return next(chosen for largest, chosen in tiles[kernel].items() if size <= largest)


def _sizes(q: Tensor, v: Tensor, chunk: int, reads_own: bool) -> dict[str, Any]:
    precision = product_precision(q.dtype)
    return {"K": q.shape[-1], "V": v.shape[-1], "C": chunk, "READS_OWN": reads_own, "PRECISION": precision}


def _tokens(x: Tensor, rows: int = BLOCK.value) -> TensorDescriptor:
    """Tiles [1, rows, D] of [B, T, H, D], one head wide."""
    return token_tiles(x, rows, x.shape[-1])


def _paged_attention_step(
    q: Tensor,
    keys: Tensor,
    values: Tensor,
    rows: Tensor,
    own_keys: Tensor | None,
    own_values: Tensor | None,
    scale: float,
) -> Tensor:
    """[B, A, Va]; the open chunk may be a view of a larger one."""
    q, keys, values, rows = (x.contiguous() for x in (q, keys, values, rows))
    pages, group, chunk, key_size = keys.shape
    batch, heads, value_size = *q.shape[:2], values.shape[3]
    output = q.new_empty((batch, heads, value_size))
    parts = q.new_empty((pages, group, value_size), dtype=torch.float32)
    sums = q.new_empty((2, pages, group), dtype=torch.float32)
    listed = q.new_empty((batch * heads, pages), dtype=torch.int32)
    sizes = {"K": triton.next_power_of_2(key_size), "V": triton.next_power_of_2(value_size)}
    own_keys, own_values = (None if x is None else _dense(x) for x in (own_keys, own_values))
    strides = (0,) * 4 if own_keys is None or own_values is None else (*own_keys.stride()[:2], *own_values.stride()[:2])
    with on(q):
        if pages:
            page_kernel[(pages * group,)](
                q, keys, values, rows, parts, sums, scale, pages, group, chunk, key_size, value_size,
                C=triton.next_power_of_2(chunk), **sizes, num_warps=4,
            )  # fmt: skip
        merge_kernel[(batch * heads,)](
            q, own_keys, own_values, rows, parts, sums, listed, output, scale, heads, pages, group,
            key_size, value_size, 0 if own_keys is None else own_keys.shape[2], *strides, **sizes, num_warps=4,
        )  # fmt: skip
    return output


def _fake_paged_attention_step(
    q: Tensor,
    keys: Tensor,
    values: Tensor,
    rows: Tensor,
    own_keys: Tensor | None,
    own_values: Tensor | None,
    scale: float,
) -> Tensor:
    return q.new_empty((*q.shape[:2], values.shape[3]))


def _dense(x: Tensor) -> Tensor:
    """[B, A, L, D] whose tokens lie one behind the other."""
    return x if x.stride(3) == 1 and x.stride(2) == x.shape[3] else x.contiguous()


routed_softmax = define(
    "routed_softmax",
    "(Tensor q, Tensor k, Tensor v, Tensor gate, float scale, int chunk, bool reads_own)"
    " -> (Tensor, Tensor, Tensor, Tensor)",
    _routed_softmax,
    _fake_routed_softmax,
)
routed_softmax_backward = define(
    "routed_softmax_backward",
    "(Tensor d_output, Tensor q, Tensor k, Tensor v, Tensor gate, Tensor output, Tensor sums, Tensor listed, "
    "Tensor before, float scale, int chunk, bool reads_own) -> (Tensor, Tensor, Tensor, Tensor)",
    _routed_softmax_backward,
    _fake_routed_softmax_backward,
)
differentiate("routed_softmax", _keep, _backward)
paged_attention_step = define(
    "paged_attention_step",
    "(Tensor q, Tensor keys, Tensor values, Tensor rows, Tensor? own_keys, Tensor? own_values, float scale) -> Tensor",
    _paged_attention_step,
    _fake_paged_attention_step,
)
