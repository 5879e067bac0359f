# mypy: ignore-errors
# (Triton's language is not Python's types: a jitted function sees pointers and tiles.)
"""Triton kernel of sliding-window attention's forward pass: softmax over tiles of keys as they come (2205.14135).

Query i sees key j if j <= i and (i - j < window or j < sinks). So a block of queries meets the tiles with sinks, those
its window reaches, and its own; those in which every query sees every key need no mask.

Axes: B batch, T tokens, H query heads, G key-value heads, K key size, V value size; M queries of a program, N keys of a
tile, N divides M. Tensors [B, T, heads, size] come as descriptors (TMA on Hopper): what lies behind the last token, or
behind a size that is smaller than K or V, loads as zeros and is not stored. `sums` and `deltas` are [B, H, T], T filled
up to a multiple of 4. Exponents are of base 2. Lengths, heads, window and sinks are run-time numbers, not specialised.
"""

import triton
import triton.language as tl

LOG2E = tl.constexpr(1.4426950408889634)
UNSEEN = tl.constexpr(-1e30)
"""Score of a key that is not seen; finite, so that a row of a tile with no seen key gives no NaN."""

RUN_TIME = ["tokens", "heads", "repeats", "window", "sinks"]


@triton.jit
def seen(i, j, window, sinks):
    """Whether query i sees key j."""
    return (j <= i) & ((i - j < window) | (j < sinks))


@triton.jit
def key_tiles(first, tokens, window, sinks, M: tl.constexpr, N: tl.constexpr):
    """Of the queries from `first`: tiles with sinks before `near`, tiles from `near` with a mask, then `free` ones."""
    near = tl.maximum(first - window + 1, 0) // N
    far = tl.minimum(tl.cdiv(sinks, N), near)
    free = tl.minimum(tl.cdiv(tl.maximum(first + M - window, 0), N), first // N)
    last = tl.cdiv(tl.minimum(first + M, tokens), N)
    return far, near, free, last


@triton.jit
def masked_tile(n, far, near, free, own):
    """The n-th tile with a mask: sinks, then the edge of the window, then the queries' own."""
    edge = n - far + near
    return tl.where(n < far, n, tl.where(edge < free, edge, edge - free + own))


@triton.jit
def rows_of(x, batch, first, head, ROWS: tl.constexpr, SIZE: tl.constexpr):
    """[ROWS, SIZE] of one head from token `first` on; zeros behind the last token."""
    return x.load([batch, first, head, 0]).reshape(ROWS, SIZE)


@triton.jit
def filled(tokens):
    """Numbers of a row of `sums`: with float32 a multiple of 16 bytes."""
    return tl.cdiv(tokens, 4) * 4


@triton.jit
def block_of(tokens, heads, M: tl.constexpr):
    """Which first query, x = head of a sequence, sequence and head this program of B H T / M works on."""
    x = tl.program_id(0) // tl.cdiv(tokens, M)
    return tl.program_id(0) % tl.cdiv(tokens, M) * M, x, x // heads, x % heads


@triton.jit
def attend(
    query, key, value, i, j, acc, top, total, factor, window, sinks, MASKED: tl.constexpr, PRECISION: tl.constexpr
):
    """One tile of keys and values taken into the running softmax."""
    scores = tl.dot(query, tl.trans(key), input_precision=PRECISION) * factor
    if MASKED:
        scores = tl.where(seen(i[:, None], j[None, :], window, sinks), scores, UNSEEN)
    highest = tl.maximum(top, tl.max(scores, 1))
    weights = tl.exp2(scores - highest[:, None])
    shrink = tl.exp2(top - highest)
    acc = tl.dot(weights.to(value.dtype), value, acc * shrink[:, None], input_precision=PRECISION)
    return acc, highest, total * shrink + tl.sum(weights, 1)


@triton.jit(do_not_specialize=RUN_TIME)
def forward_kernel(
    q,
    k,
    v,
    output,
    sums,
    factor,
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
    """M queries of one head: output [B, T, H, V] and log2 of the sum of exponentials, `sums`. Grid: B H T / M."""
    first, x, batch, head = block_of(tokens, heads, M)
    rows = tl.arange(0, M)
    others = tl.arange(0, N)
    group = head // repeats
    query = rows_of(q, batch, first, head, M, K)
    i = first + rows
    acc = tl.zeros((M, V), tl.float32)
    top = tl.full((M,), UNSEEN, tl.float32)
    total = tl.zeros((M,), tl.float32)
    far, near, free, last = key_tiles(first, tokens, window, sinks, M, N)
    own = first // N
    for n in range(0, far + (free - near) + (last - own)):
        start = masked_tile(n, far, near, free, own) * N
        key = rows_of(k, batch, start, group, N, K)
        value = rows_of(v, batch, start, group, N, V)
        acc, top, total = attend(
            query, key, value, i, start + others, acc, top, total, factor, window, sinks, True, PRECISION
        )
    for n in range(free, own):
        key = rows_of(k, batch, n * N, group, N, K)
        value = rows_of(v, batch, n * N, group, N, V)
        acc, top, total = attend(query, key, value, i, i, acc, top, total, factor, window, sinks, False, PRECISION)
    output.store([batch, first, head, 0], (acc / total[:, None]).to(output.dtype).reshape(1, M, 1, V))
    tl.store(sums + x.to(tl.int64) * filled(tokens) + i, top + tl.log2(total), mask=i < tokens)
