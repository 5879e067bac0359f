"""Sliding-window attention as operators of torch: `hybridsearch::sliding_window` and its backward pass.

One launch forwards, two backwards (and one sum where there are sinks). Opaque to torch.compile, usable in a CUDA graph:
no host waits for the device, and no size depends on data.
"""

from typing import Any

import torch
from torch import Tensor
from triton.tools.tensor_descriptor import TensorDescriptor

from hybridsearch.kernels.descriptors import Tiles, product_precision
from hybridsearch.kernels.registration import define, differentiate, on
from hybridsearch.kernels.sliding_window.tiles import tile, tile_size
from hybridsearch.kernels.sliding_window.triton_backward import keys_backward_kernel, queries_backward_kernel
from hybridsearch.kernels.sliding_window.triton_forward import LOG2E, forward_kernel

SHORTEST_SPAN = 512
"""Queries; those behind the window of a block with sinks are split into spans of this or of the window's length."""


def _sliding_window(q: Tensor, k: Tensor, v: Tensor, window: int, sinks: int, scale: float) -> tuple[Tensor, Tensor]:
    """Output [B, T, H, V] and log2 of the sum of exponentials, float32 [B, H, T], T filled up to a multiple of 4."""
    q, k, v = (aligned(x) for x in (q, k, v))
    output, sums = _fake_sliding_window(q, k, v, window, sinks, scale)
    batch, tokens, heads, _ = q.shape
    key_size, value_size = _sizes(q, v)
    chosen = tile("forward", key_size, value_size, v.dtype)
    with on(q):
        forward_kernel[(-(-tokens // chosen.rows) * batch * heads,)](
            _rows(q, chosen.rows, key_size), _rows(k, chosen.columns, key_size), _rows(v, chosen.columns, value_size),
            _rows(output, chosen.rows, value_size), sums, scale * LOG2E.value,
            tokens, heads, heads // k.shape[2], window, sinks,
            K=key_size, V=value_size, M=chosen.rows, N=chosen.columns, PRECISION=product_precision(v.dtype),
            num_warps=chosen.warps, num_stages=chosen.stages, maxnreg=chosen.registers,
        )  # fmt: skip
    return output, sums


def _fake_sliding_window(
    q: Tensor, k: Tensor, v: Tensor, window: int, sinks: int, scale: float
) -> tuple[Tensor, Tensor]:
    batch, tokens, heads, _ = q.shape
    sums = v.new_empty((batch, heads, -(-tokens // 4) * 4), dtype=torch.float32)
    return v.new_empty((batch, tokens, heads, v.shape[-1])), sums


def _sliding_window_backward(
    d_output: Tensor,
    q: Tensor,
    k: Tensor,
    v: Tensor,
    output: Tensor,
    sums: Tensor,
    window: int,
    sinks: int,
    scale: float,
) -> tuple[Tensor, Tensor, Tensor]:
    """Gradients of q, k and v."""
    q, k, v, d_output = (aligned(x) for x in (q, k, v, d_output))
    d_q, d_k, d_v = (x.new_empty(x.shape) for x in (q, k, v))
    batch, tokens, heads, _ = q.shape
    groups = k.shape[2]
    key_size, value_size = _sizes(q, v)
    factor, precision = scale * LOG2E.value, product_precision(v.dtype)
    deltas = torch.empty_like(sums)
    sizes = (tokens, heads, heads // groups, window, sinks)
    with on(q):
        chosen = tile("queries_backward", key_size, value_size, v.dtype)
        queries, keys = chosen.rows, chosen.columns
        queries_backward_kernel[(-(-tokens // queries) * batch * heads,)](
            _rows(q, queries, key_size), _rows(k, keys, key_size), _rows(v, keys, value_size),
            _rows(output, queries, value_size), sums, _rows(d_output, queries, value_size),
            _rows(d_q, queries, key_size), deltas, factor, scale, *sizes,
            K=key_size, V=value_size, M=queries, N=keys, PRECISION=precision,
            num_warps=chosen.warps, num_stages=chosen.stages, maxnreg=chosen.registers,
        )  # fmt: skip
        chosen = tile("keys_backward", key_size, value_size, v.dtype)
        keys, queries = chosen.rows, chosen.columns
        blocks, spans, span = _spans(tokens, window, sinks, keys, queries)
        shares = (batch * (1 + spans), max(blocks, 1) * keys, groups)  # no tile is stored where there are no blocks
        k_shares, v_shares = (x.new_empty((*shares, x.shape[-1]), dtype=torch.float32) for x in (k, v))
        by_head = v.dtype == torch.bfloat16  # warp groups multiply, which read left operands in shared memory
        tiles = _head_rows if by_head else _rows
        keys_backward_kernel[((-(-tokens // keys) + blocks * spans) * batch * groups,)](
            tiles(q, queries, key_size), tiles(k, keys, key_size), tiles(v, keys, value_size),
            _numbers(sums, tokens, queries), _numbers(deltas, tokens, queries), tiles(d_output, queries, value_size),
            _rows(d_k, keys, key_size), _rows(d_v, keys, value_size), _rows(k_shares, keys, key_size),
            _rows(v_shares, keys, value_size), factor, scale, *sizes, blocks, spans, span,
            K=key_size, V=value_size, M=queries, N=keys, PRECISION=precision, BY_HEAD=by_head,
            num_warps=chosen.warps, num_stages=chosen.stages, maxnreg=chosen.registers,
        )  # fmt: skip
    if blocks:
        for whole, part in ((d_k, k_shares), (d_v, v_shares)):
            first = whole[:, : blocks * keys]
            first.copy_(torch.unflatten(part, 0, (batch, -1)).sum(1)[:, : first.shape[1]])
    return d_q, d_k, d_v


def _fake_sliding_window_backward(
    d_output: Tensor,
    q: Tensor,
    k: Tensor,
    v: Tensor,
    output: Tensor,
    sums: Tensor,
    window: int,
    sinks: int,
    scale: float,
) -> tuple[Tensor, Tensor, Tensor]:
    return q.new_empty(q.shape), k.new_empty(k.shape), v.new_empty(v.shape)


def _spans(tokens: int, window: int, sinks: int, keys: int, queries: int) -> tuple[int, int, int]:
    """Blocks of `keys` with sinks, spans of the queries behind the first one's window, and tiles of a span.

    No blocks where no query is behind.
    """
    behind = -(-tokens // queries) - -(-(keys - 1 + window) // queries)
    if not sinks or behind <= 0:
        return 0, 0, 0
    span = max(SHORTEST_SPAN, window) // queries
    return -(-min(sinks, tokens) // keys), -(-behind // span), span


def aligned(x: Tensor) -> Tensor:
    """`x` as tile loads ask for it: last axis dense, rows at multiples of 16 bytes."""
    size = 16 // x.element_size()
    dense = x.stride(-1) == 1 and all(stride > 0 and not stride % size for stride in x.stride()[:-1])
    return x if dense and x.data_ptr() % 16 == 0 else x.contiguous().clone(memory_format=torch.contiguous_format)


def _sizes(q: Tensor, v: Tensor) -> tuple[int, int]:
    """Columns of the tiles that hold keys and values."""
    return tile_size(q.shape[-1], v.dtype), tile_size(v.shape[-1], v.dtype)


def _rows(x: Tensor, rows: int, size: int) -> TensorDescriptor:
    """Tiles [rows, size] of one head of [B, T, heads, .]; what lies outside loads as zeros and is not stored."""
    return Tiles(x, list(x.shape), list(x.stride()), [1, rows, 1, size])


def _head_rows(x: Tensor, rows: int, size: int) -> TensorDescriptor:
    """The same tiles, of the same numbers seen as [B, heads, T, .]."""
    x = x.transpose(1, 2)
    return Tiles(x, list(x.shape), list(x.stride()), [1, 1, rows, size])


def _numbers(x: Tensor, tokens: int, rows: int) -> TensorDescriptor:
    """Tiles of `rows` tokens of one head of [B, heads, T filled up]; what is filled up loads as zeros."""
    return Tiles(x, [*x.shape[:2], tokens], list(x.stride()), [1, 1, rows])


def _keep(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor]) -> None:
    q, k, v, ctx.window, ctx.sinks, ctx.scale = inputs
    ctx.set_materialize_grads(False)
    ctx.mark_non_differentiable(output[1])
    ctx.save_for_backward(q, k, v, *output)


def _backward(ctx: Any, d_output: Tensor | None, _: None) -> tuple[Tensor | None, ...]:
    if d_output is None:
        return (None,) * 6
    d_q, d_k, d_v = sliding_window_backward(d_output, *ctx.saved_tensors, ctx.window, ctx.sinks, ctx.scale)
    return d_q, d_k, d_v, None, None, None


sliding_window = define(
    "sliding_window",
    "(Tensor q, Tensor k, Tensor v, SymInt window, SymInt sinks, float scale) -> (Tensor, Tensor)",
    _sliding_window,
    _fake_sliding_window,
)
sliding_window_backward = define(
    "sliding_window_backward",
    "(Tensor d_output, Tensor q, Tensor k, Tensor v, Tensor output, Tensor sums, SymInt window, SymInt sinks, "
    "float scale) -> (Tensor, Tensor, Tensor)",
    _sliding_window_backward,
    _fake_sliding_window_backward,
)
differentiate("sliding_window", _keep, _backward)
