# mypy: ignore-errors
# (Triton's language is not Python's types: a jitted function sees pointers and tiles.)
"""Triton kernels of sliding-window attention's backward pass; axes and names as in `triton_forward`.

With P the weights, dP = dO V^T and delta_i = <dO_i, O_i>: dS = P (dP - delta), dQ = scale dS K, dK = scale dS^T Q and
dV = P^T dO. A block of keys is met by the queries its window reaches. Keys that are sinks are met by all later queries
too: those are split into spans, each the work of a program of its own, and the shares are summed in a fixed order.
Transposed scores are computed from their operands: a transposed accumulator as the left operand of a product is
miscompiled on Hopper before Triton 3.7.1.
"""

import triton
import triton.language as tl

from hybridsearch.kernels.sliding_window.triton_forward import (
    RUN_TIME,
    block_of,
    filled,
    key_tiles,
    masked_tile,
    rows_of,
    seen,
)

BACKWARD_RUN_TIME = [*RUN_TIME, "blocks", "spans", "span"]


@triton.jit
def towards_queries(
    query,
    key,
    value,
    d_output,
    i,
    j,
    top,
    delta,
    acc,
    factor,
    window,
    sinks,
    MASKED: tl.constexpr,
    PRECISION: tl.constexpr,
):
    """One tile's share of dQ, without the scale."""
    scores = tl.dot(query, tl.trans(key), input_precision=PRECISION) * factor
    weights = tl.exp2(scores - top[:, None])
    if MASKED:
        weights = tl.where(seen(i[:, None], j[None, :], window, sinks), weights, 0.0)
    slopes = weights * (tl.dot(d_output, tl.trans(value), input_precision=PRECISION) - delta[:, None])
    return tl.dot(slopes.to(key.dtype), key, acc, input_precision=PRECISION)


@triton.jit(do_not_specialize=RUN_TIME)
def queries_backward_kernel(
    q,
    k,
    v,
    output,
    sums,
    d_output,
    d_q,
    deltas,
    factor,
    scale,
    tokens,
    heads,
    repeats,
    window,
    sinks,
    K: tl.constexpr,
    V: tl.constexpr,
    M: tl.constexpr,
    N: tl.constexpr,
    PRECISION: tl.constexpr,
):
    """dQ [B, T, H, K] and delta [B, H, T] of M queries of one head. Grid: B H T / M."""
    first, x, batch, head = block_of(tokens, heads, M)
    group = head // repeats
    rows = tl.arange(0, M)
    others = tl.arange(0, N)
    i = first + rows
    query = rows_of(q, batch, first, head, M, K)
    slope = rows_of(d_output, batch, first, head, M, V)
    delta = tl.sum(slope.to(tl.float32) * rows_of(output, batch, first, head, M, V).to(tl.float32), 1)
    place = x.to(tl.int64) * filled(tokens)
    tl.store(deltas + place + i, delta, mask=i < tokens)
    top = tl.load(sums + place + i, mask=i < tokens, other=0.0)
    acc = tl.zeros((M, K), tl.float32)
    far, near, free, last = key_tiles(first, tokens, window, sinks, M, N)
    own = first // N
    for n in range(0, far + (free - near) + (last - own)):
        start = masked_tile(n, far, near, free, own) * N
        key = rows_of(k, batch, start, group, N, K)
        value = rows_of(v, batch, start, group, N, V)
        acc = towards_queries(
            query, key, value, slope, i, start + others, top, delta, acc, factor, window, sinks, True, PRECISION
        )
    for n in range(free, own):
        key = rows_of(k, batch, n * N, group, N, K)
        value = rows_of(v, batch, n * N, group, N, V)
        acc = towards_queries(query, key, value, slope, i, i, top, delta, acc, factor, window, sinks, False, PRECISION)
    d_q.store([batch, first, head, 0], (acc * scale).to(d_q.dtype).reshape(1, M, 1, K))


@triton.jit
def operand_of(x, batch, first, head, ROWS: tl.constexpr, SIZE: tl.constexpr, BY_HEAD: tl.constexpr):
    """`rows_of`, also of [B, heads, T, size]: with these axes left operands of products stay in shared memory.

    Triton takes them to registers else, where the keys and values of all products would spill.
    """
    if BY_HEAD:
        tile = x.load([batch, head, first, 0]).reshape(ROWS, SIZE)
    else:
        tile = rows_of(x, batch, first, head, ROWS, SIZE)
    return tile


@triton.jit
def towards_keys(
    query, key, value, d_output, i, j, top, delta, d_k, d_v, factor, window, sinks,
    MASKED: tl.constexpr, PRECISION: tl.constexpr
):  # fmt: skip
    """One tile of queries' shares of dK, without the scale, and dV."""
    scores = tl.dot(key, tl.trans(query), input_precision=PRECISION) * factor - top[None, :]
    if MASKED:
        scores = tl.where(seen(i[None, :], j[:, None], window, sinks), scores, -float("inf"))
    weights = tl.exp2(scores)
    d_v = tl.dot(weights.to(value.dtype), d_output, d_v, input_precision=PRECISION)
    slopes = weights * (tl.dot(value, tl.trans(d_output), input_precision=PRECISION) - delta[None, :])
    return tl.dot(slopes.to(key.dtype), query, d_k, input_precision=PRECISION), d_v


@triton.jit(do_not_specialize=BACKWARD_RUN_TIME)
def keys_backward_kernel(
    q,
    k,
    v,
    sums,
    deltas,
    d_output,
    d_k,
    d_v,
    k_shares,
    v_shares,
    factor,
    scale,
    tokens,
    heads,
    repeats,
    window,
    sinks,
    blocks,
    spans,
    span,
    K: tl.constexpr,
    V: tl.constexpr,
    M: tl.constexpr,
    N: tl.constexpr,
    PRECISION: tl.constexpr,
    BY_HEAD: tl.constexpr,
):
    """dK and dV of N keys of one key-value head. Grid: B G (T / N + blocks spans).

    The first T / N programs take the queries near the block. The others take, for each of the `blocks` with sinks, one
    of `spans` spans of the queries behind; these blocks' shares go to float32 [B, 1 + spans, blocks N, G, .].
    """
    groups = heads // repeats
    all_blocks = tl.cdiv(tokens, N)
    programs = all_blocks + blocks * spans
    x, program = tl.program_id(0) // programs, tl.program_id(0) % programs
    batch = x // groups
    group = x % groups
    behind = program - all_blocks
    block = tl.where(behind < 0, program, behind // tl.maximum(spans, 1))
    share = tl.where(behind < 0, 0, 1 + behind % tl.maximum(spans, 1))
    first = block * N
    own = tl.arange(0, N)
    rows = tl.arange(0, M)
    j = first + own
    key = operand_of(k, batch, first, group, N, K, BY_HEAD)
    value = operand_of(v, batch, first, group, N, V, BY_HEAD)
    # tiles of queries, by number: own ones [first / M, free), unmasked ones [free, edge), those at the edge [edge, far)
    free = (first + N) // M
    edge = free + tl.minimum(tl.maximum(window - N, 0) // M, tl.cdiv(tl.maximum(tokens - first - N, 0), M))
    far = tl.maximum(tl.cdiv(tl.minimum(tokens, first + N - 1 + window), M), edge)
    start = tl.where(share == 0, first // M, far + (share - 1) * span)
    stop = tl.where(share == 0, tl.minimum(far, tl.cdiv(tokens, M)), tl.minimum(start + span, tl.cdiv(tokens, M)))
    skipped = tl.where(share == 0, edge - free, 0)
    acc_k = tl.zeros((N, K), tl.float32)
    acc_v = tl.zeros((N, V), tl.float32)
    for repeat in range(0, repeats):
        head = group * repeats + repeat
        for n in range(free, free + skipped):
            query = operand_of(q, batch, n * M, head, M, K, BY_HEAD)
            slope = operand_of(d_output, batch, n * M, head, M, V, BY_HEAD)
            top = sums.load([batch, head, n * M]).reshape(M)
            delta = deltas.load([batch, head, n * M]).reshape(M)
            acc_k, acc_v = towards_keys(
                query, key, value, slope, rows, j, top, delta, acc_k, acc_v, factor, window, sinks, False, PRECISION
            )
        for n in range(start, stop - skipped):
            m = tl.where(n >= free, n + skipped, n) * M
            query = operand_of(q, batch, m, head, M, K, BY_HEAD)
            slope = operand_of(d_output, batch, m, head, M, V, BY_HEAD)
            top = sums.load([batch, head, m]).reshape(M)
            delta = deltas.load([batch, head, m]).reshape(M)
            acc_k, acc_v = towards_keys(
                query, key, value, slope, m + rows, j, top, delta, acc_k, acc_v, factor, window, sinks, True, PRECISION
            )
    if first < blocks * N:
        part = batch * (1 + spans) + share
        k_shares.store([part, first, group, 0], (acc_k * scale).reshape(1, N, 1, K))
        v_shares.store([part, first, group, 0], acc_v.reshape(1, N, 1, V))
    else:
        d_k.store([batch, first, group, 0], (acc_k * scale).to(d_k.dtype).reshape(1, N, 1, K))
        d_v.store([batch, first, group, 0], acc_v.to(d_v.dtype).reshape(1, N, 1, V))
