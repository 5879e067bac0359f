# mypy: ignore-errors
# (Triton's language is not Python's types: a jitted function sees pointers and tiles.)
"""Triton kernels of token routing's softmax branch, forwards and backwards.

Keys are read in blocks of BLOCK tokens. For every sequence and linear head a list names, in order, the blocks that hold
a softmax-typed chunk; a program over queries reads the blocks of the list that lie before its tile, as many as the
device finds there, and then the blocks of its tile, where own chunks and edges are masked. Chunks of BLOCK tokens or
more need no mask before the tile; of shorter ones, a listed block may hold some that were not typed softmax.

Scores are to the base of 2. Axes: B batch, T tokens, A softmax heads with sizes K and V, H linear heads, N chunks of C
tokens, M blocks, rows of B A. `sums` (log2 of a row's sum of weights) and `deltas` (dO . O) are [B A, T], padded to
whole tiles; there a query that sees no key, or lies behind the last token, has an infinite sum, so that its weights
are 0. Tensors [B, T, A, D] are read and written through descriptors (TMA on Hopper): what lies behind the last token
loads as zeros and is not stored.
"""

import triton
import triton.language as tl

LOG2E = tl.constexpr(1.4426950408889634)
BLOCK = tl.constexpr(64)
LEAST = tl.constexpr(-1e30)
"""Stands for the largest score of a row without any: finite, so that differences from it are no NaN."""

RUN_TIME = ["tokens", "heads", "linear_heads", "chunks", "blocks", "padded", "rows"]


@triton.jit(do_not_specialize=RUN_TIME)
def list_kernel(
    gate,
    listed,
    before,
    linear_heads,
    chunks,
    blocks,
    C: tl.constexpr,
    SIZE: tl.constexpr,
):
    """The blocks with a softmax-typed chunk (`listed` [B H, M]) and how many lie before each (`before` [B H, M + 1]).

    Grid: B H; SIZE blocks at a time. `gate` [B, N, H] is 1 for softmax-typed chunks.
    """
    PARTS: tl.constexpr = BLOCK // C if C < BLOCK else 1
    row = tl.program_id(0).to(tl.int64)
    gate += row // linear_heads * chunks * linear_heads + row % linear_heads
    listed += row * blocks
    before += row * (blocks + 1)
    found = 0
    for start in range(0, blocks, SIZE):
        block = start + tl.arange(0, SIZE)
        chunk = (block * BLOCK // C)[:, None] + tl.arange(0, PARTS)[None, :]
        typed = tl.load(gate + chunk * linear_heads, mask=chunk < chunks, other=0.0).to(tl.float32)
        holds = tl.where(tl.max(typed, 1) > 0.5, 1, 0)
        place = found + tl.cumsum(holds, 0)
        tl.store(before + block + 1, place, mask=block < blocks)
        tl.store(listed + place - 1, block, mask=holds > 0)
        found += tl.sum(holds, 0)
    tl.store(before, 0)


@triton.jit
def _typed(gate, key, chunks, linear_heads, C: tl.constexpr):
    """Whether each key's chunk is complete and typed softmax; `gate` points to the sequence and head."""
    chunk = key // C
    return tl.load(gate + chunk * linear_heads, mask=chunk < chunks, other=0.0).to(tl.float32) > 0.5


@triton.jit
def _seen(query, key, typed, C: tl.constexpr, READS_OWN: tl.constexpr):
    """Whether each query sees each key: one of an earlier, softmax-typed chunk, or one before it in its own chunk."""
    seen = (key // C < query // C) & typed
    if READS_OWN:
        seen |= (key // C == query // C) & (key <= query)
    return seen


@triton.jit
def _seen_of_chunk(query, start, gate, chunks, linear_heads, C: tl.constexpr):
    """`_seen` of a block from `start` on that lies in one chunk, with own chunks read.

    A query sees the first so many keys of it: one comparison a pair, where each more would cost registers.
    """
    keys = tl.arange(0, BLOCK)[None, :]
    own = (query // C)[:, None]
    chunk = start // C
    typed = _typed(gate, start, chunks, linear_heads, C)
    many = tl.where(chunk < own, tl.where(typed, BLOCK, 0), 0)
    return keys < tl.where(chunk == own, query[:, None] + 1 - start, many)


@triton.jit
def _absorb(queries, keys, values, seen, scale, most, total, mixed, MASKED: tl.constexpr, PRECISION: tl.constexpr):
    """One block of keys into the running softmax of a tile of queries."""
    scores = tl.dot(queries, tl.trans(keys), input_precision=PRECISION)
    if MASKED:
        scores = tl.where(seen, scores, -float("inf"))
    more = tl.maximum(most, tl.max(scores, 1) * scale)
    weights = tl.exp2(scores * scale - more[:, None])
    shrunk = tl.exp2(most - more)
    total = total * shrunk + tl.sum(weights, 1)
    mixed = tl.dot(weights.to(values.dtype), values, mixed * shrunk[:, None], input_precision=PRECISION)
    return more, total, mixed


@triton.jit(do_not_specialize=RUN_TIME)
def forward_kernel(
    q,
    k,
    v,
    gate,
    listed,
    before,
    output,
    sums,
    scale,
    tokens,
    heads,
    linear_heads,
    chunks,
    blocks,
    padded,
    rows,
    K: tl.constexpr,
    V: tl.constexpr,
    C: tl.constexpr,
    BQ: tl.constexpr,
    READS_OWN: tl.constexpr,
    PRECISION: tl.constexpr,
):
    """BQ queries of one head. Grid: padded / BQ tiles, the last and longest first, by B A."""
    x = tl.program_id(0) % rows
    tile = padded // BQ - 1 - tl.program_id(0) // rows
    batch = x // heads
    head = x % heads
    linear_head = head // (heads // linear_heads)
    row = (batch * linear_heads + linear_head).to(tl.int64)
    gate += batch.to(tl.int64) * chunks * linear_heads + linear_head
    first = tile * BQ
    query = first + tl.arange(0, BQ)
    scale *= LOG2E

    queries = q.load([batch, first, head * K]).reshape(BQ, K)
    most = tl.full((BQ,), LEAST, tl.float32)
    total = tl.zeros((BQ,), tl.float32)
    mixed = tl.zeros((BQ, V), tl.float32)
    count = tl.load(before + row * (blocks + 1) + first // BLOCK)
    listed += row * blocks
    for i in range(count):
        start = tl.load(listed + i) * BLOCK
        keys = k.load([batch, start, head * K]).reshape(BLOCK, K)
        values = v.load([batch, start, head * V]).reshape(BLOCK, V)
        if C < BLOCK:
            seen = _typed(gate, start + tl.arange(0, BLOCK), chunks, linear_heads, C)[None, :]
            most, total, mixed = _absorb(queries, keys, values, seen, scale, most, total, mixed, True, PRECISION)
        else:
            most, total, mixed = _absorb(queries, keys, values, True, scale, most, total, mixed, False, PRECISION)
    for i in tl.static_range(BQ // BLOCK):
        key = first + i * BLOCK + tl.arange(0, BLOCK)
        keys = k.load([batch, first + i * BLOCK, head * K]).reshape(BLOCK, K)
        values = v.load([batch, first + i * BLOCK, head * V]).reshape(BLOCK, V)
        if READS_OWN and C >= BLOCK:
            seen = _seen_of_chunk(query, first + i * BLOCK, gate, chunks, linear_heads, C)
        else:
            typed = _typed(gate, key, chunks, linear_heads, C)
            seen = _seen(query[:, None], key[None, :], typed[None, :], C, READS_OWN)
        most, total, mixed = _absorb(queries, keys, values, seen, scale, most, total, mixed, True, PRECISION)

    empty = (total == 0.0) | (query >= tokens)
    mixed /= tl.where(empty, 1.0, total)[:, None]
    output.store([batch, first, head * V], mixed.to(output.dtype).reshape(1, BQ, V))
    sums += x.to(tl.int64) * padded
    tl.store(sums + query, tl.where(empty, float("inf"), most + tl.log2(tl.where(empty, 1.0, total))))


@triton.jit
def _query_gradient(
    queries,
    d_out,
    keys,
    values,
    seen,
    scale,
    sums,
    deltas,
    rest,
    d_query,
    MASKED: tl.constexpr,
    PRECISION: tl.constexpr,
):
    """Adds what one block of keys gives to a tile of queries: dS summed up, and their gradient before its scale."""
    scores = tl.dot(queries, tl.trans(keys), input_precision=PRECISION)
    d_weights = tl.dot(d_out, tl.trans(values), input_precision=PRECISION)
    weights = tl.exp2(scores * scale - sums[:, None])
    if MASKED:
        weights = tl.where(seen, weights, 0.0)
    d_scores = weights * (d_weights - deltas[:, None])
    d_query = tl.dot(d_scores.to(keys.dtype), keys, d_query, input_precision=PRECISION)
    return rest + tl.sum(d_scores, 1), d_query


@triton.jit(do_not_specialize=RUN_TIME)
def queries_backward_kernel(
    q,
    k,
    v,
    gate,
    listed,
    before,
    output,
    d_output,
    sums,
    deltas,
    d_q,
    scale,
    tokens,
    heads,
    linear_heads,
    chunks,
    blocks,
    padded,
    rows,
    K: tl.constexpr,
    V: tl.constexpr,
    C: tl.constexpr,
    BQ: tl.constexpr,
    READS_OWN: tl.constexpr,
    PRECISION: tl.constexpr,
):
    """dq of BQ queries of one head, and their deltas for the kernel over keys. Grid as in `forward_kernel`."""
    x = tl.program_id(0) % rows
    tile = padded // BQ - 1 - tl.program_id(0) // rows
    batch = x // heads
    head = x % heads
    linear_head = head // (heads // linear_heads)
    row = (batch * linear_heads + linear_head).to(tl.int64)
    gate += batch.to(tl.int64) * chunks * linear_heads + linear_head
    first = tile * BQ
    query = first + tl.arange(0, BQ)
    factor = scale * LOG2E

    queries = q.load([batch, first, head * K]).reshape(BQ, K)
    d_out = d_output.load([batch, first, head * V]).reshape(BQ, V)
    out = output.load([batch, first, head * V]).reshape(BQ, V)
    delta = tl.sum(d_out.to(tl.float32) * out.to(tl.float32), 1)
    places = x.to(tl.int64) * padded + query
    rest = tl.zeros((BQ,), tl.float32)
    total = tl.load(sums + places)
    d_query = tl.zeros((BQ, K), tl.float32)
    count = tl.load(before + row * (blocks + 1) + first // BLOCK)
    listed += row * blocks
    for i in range(count):
        start = tl.load(listed + i) * BLOCK
        keys = k.load([batch, start, head * K]).reshape(BLOCK, K)
        values = v.load([batch, start, head * V]).reshape(BLOCK, V)
        if C < BLOCK:
            seen = _typed(gate, start + tl.arange(0, BLOCK), chunks, linear_heads, C)[None, :]
            rest, d_query = _query_gradient(
                queries, d_out, keys, values, seen, factor, total, delta, rest, d_query, True, PRECISION
            )
        else:
            rest, d_query = _query_gradient(
                queries, d_out, keys, values, True, factor, total, delta, rest, d_query, False, PRECISION
            )
    for i in tl.static_range(BQ // BLOCK):
        key = first + i * BLOCK + tl.arange(0, BLOCK)
        keys = k.load([batch, first + i * BLOCK, head * K]).reshape(BLOCK, K)
        values = v.load([batch, first + i * BLOCK, head * V]).reshape(BLOCK, V)
        typed = _typed(gate, key, chunks, linear_heads, C)
        seen = _seen(query[:, None], key[None, :], typed[None, :], C, READS_OWN)
        rest, d_query = _query_gradient(
            queries, d_out, keys, values, seen, factor, total, delta, rest, d_query, True, PRECISION
        )

    # A row of dS adds up to 0. What is left is what rounding the output cost delta; without it the route's gradient,
    # a sum of dS, is exact (1e-6 for 4e-3).
    tl.store(deltas + places, delta + rest)
    d_q.store([batch, first, head * K], (d_query * scale).to(d_q.dtype).reshape(1, BQ, K))


@triton.jit
def _key_gradients(
    keys,
    values,
    queries,
    d_out,
    key,
    query,
    typed,
    scale,
    sums,
    deltas,
    column,
    d_key,
    d_value,
    C: tl.constexpr,
    OWN: tl.constexpr,
    READS_OWN: tl.constexpr,
    PRECISION: tl.constexpr,
):
    """Adds what a tile of queries gives to a block of keys: dS summed up over later chunks, dk before its scale, dv.

    Scores are worked on transposed, keys as rows, so that both products take theirs from registers. OWN: queries of the
    keys' own chunks may be among them.
    """
    kind = keys.dtype
    scores_t = tl.dot(keys, tl.trans(queries), input_precision=PRECISION)
    if OWN:
        later = (key // C)[:, None] < (query // C)[None, :]
        seen = later & typed[:, None]
        if READS_OWN:
            seen |= ((key // C)[:, None] == (query // C)[None, :]) & (key[:, None] <= query[None, :])
        weights_t = tl.where(seen, tl.exp2(scores_t * scale - tl.load(sums + query)[None, :]), 0.0)
    else:
        weights_t = tl.exp2(scores_t * scale - tl.load(sums + query)[None, :])
        if C < BLOCK:
            weights_t = tl.where(typed[:, None], weights_t, 0.0)
    d_value = tl.dot(weights_t.to(kind), d_out, d_value, input_precision=PRECISION)
    d_weights_t = tl.dot(values, tl.trans(d_out), input_precision=PRECISION)
    d_scores_t = weights_t * (d_weights_t - tl.load(deltas + query)[None, :])
    if OWN:
        column += tl.sum(tl.where(later, d_scores_t, 0.0), 1)
    else:
        column += tl.sum(d_scores_t, 1)
    d_key = tl.dot(d_scores_t.to(kind), queries, d_key, input_precision=PRECISION)
    return column, d_key, d_value


@triton.jit(do_not_specialize=RUN_TIME)
def keys_backward_kernel(
    q,
    k,
    v,
    gate,
    d_output,
    sums,
    deltas,
    d_k,
    d_v,
    columns,
    scale,
    tokens,
    heads,
    linear_heads,
    chunks,
    blocks,
    padded,
    rows,
    K: tl.constexpr,
    V: tl.constexpr,
    C: tl.constexpr,
    BQ: tl.constexpr,
    READS_OWN: tl.constexpr,
    PRECISION: tl.constexpr,
):
    """dk and dv of one block of keys, and for each key the sum of dS over later chunks. Grid: M B A.

    A block that holds no softmax-typed chunk ends with its own chunk's queries.
    """
    x = tl.program_id(0) % rows
    block = tl.program_id(0) // rows
    batch = x // heads
    head = x % heads
    linear_head = head // (heads // linear_heads)
    gate += batch.to(tl.int64) * chunks * linear_heads + linear_head
    start = block * BLOCK
    key = start + tl.arange(0, BLOCK)
    factor = scale * LOG2E
    places = tl.arange(0, BQ)

    keys = k.load([batch, start, head * K]).reshape(BLOCK, K)
    values = v.load([batch, start, head * V]).reshape(BLOCK, V)
    typed = _typed(gate, key, chunks, linear_heads, C)
    d_key = tl.zeros((BLOCK, K), tl.float32)
    d_value = tl.zeros((BLOCK, V), tl.float32)
    column = tl.zeros((BLOCK,), tl.float32)
    sums += x.to(tl.int64) * padded
    deltas += x.to(tl.int64) * padded

    own_end = tl.cdiv(tl.maximum((start // C + 1) * C, start + BLOCK), BQ) * BQ
    for first in range(start // BQ * BQ, tl.minimum(own_end, padded), BQ):
        query = first + places
        queries = q.load([batch, first, head * K]).reshape(BQ, K)
        d_out = d_output.load([batch, first, head * V]).reshape(BQ, V)
        column, d_key, d_value = _key_gradients(
            keys, values, queries, d_out, key, query, typed, factor, sums, deltas,
            column, d_key, d_value, C, True, READS_OWN, PRECISION,
        )  # fmt: skip
    end = tl.where(tl.max(typed.to(tl.int32), 0) > 0, padded, 0)
    for first in range(own_end, end, BQ):
        query = first + places
        queries = q.load([batch, first, head * K]).reshape(BQ, K)
        d_out = d_output.load([batch, first, head * V]).reshape(BQ, V)
        column, d_key, d_value = _key_gradients(
            keys, values, queries, d_out, key, query, typed, factor, sums, deltas,
            column, d_key, d_value, C, False, READS_OWN, PRECISION,
        )  # fmt: skip

    inside = key < tokens
    wide = key[:, None].to(tl.int64) * heads
    d_k += (batch.to(tl.int64) * tokens * heads + head) * K
    d_v += (batch.to(tl.int64) * tokens * heads + head) * V
    key_offsets = wide * K + tl.arange(0, K)[None, :]
    tl.store(d_k + key_offsets, (d_key * scale).to(d_k.dtype.element_ty), mask=inside[:, None])
    value_offsets = wide * V + tl.arange(0, V)[None, :]
    tl.store(d_v + value_offsets, d_value.to(d_v.dtype.element_ty), mask=inside[:, None])
    complete = chunks * C
    tl.store(columns + x.to(tl.int64) * complete + key, column, mask=key < complete)
