# mypy: ignore-errors
# (Triton's language is not Python's types: a jitted function sees pointers and tiles.)
"""Triton kernels of gated linear attention's backward pass; axes, padding and names as in `triton_forward`.

dV = exp(gl - G) K dS' + A^T dO and dS = exp(gl) dS' + (scale exp(G) Q)^T dO run over the chunks from the last to the
first; then every chunk alone finds dq and dk from dA = scale tril(dO V^T), S and dS', and with them
dG = q dq - k dk, to which the end of the chunk adds <S', dS'>; dg is dG summed from the end.
"""

import triton
import triton.language as tl

from hybridsearch.kernels.linear_attention.triton_forward import RUN_TIME, border


@triton.jit(do_not_specialize=RUN_TIME)
def values_backward_kernel(
    q,
    k,
    scores,
    gates,
    d_output,
    d_ends,
    d_values,
    d_afters,
    d_initial,
    scale,
    tokens,
    heads,
    chunks,
    segments,
    span,
    plane,
    K: tl.constexpr,
    V: tl.constexpr,
    BV: tl.constexpr,
    C: tl.constexpr,
    VECTOR: tl.constexpr,
    ENDED: tl.constexpr,
    PRECISION: tl.constexpr,
):
    """A segment of one head, BV value columns, from its last chunk to its first. Grid: X P (V / BV).

    Stores dv and, in `d_afters` [X, N, V, K], the gradient of the state after each chunk.
    """
    TILES: tl.constexpr = V // BV
    tile = tl.program_id(0) % TILES
    segment = tl.program_id(0) // TILES % segments
    x = tl.program_id(0) // TILES // segments
    batch = x // heads
    head = x % heads
    kind = d_output.dtype

    rows = tl.arange(0, C)
    key_columns = tl.arange(0, K)
    value_columns = tile * BV + tl.arange(0, BV)
    begin = segment * span
    end = tl.minimum(begin + span, chunks)
    value_offsets = rows[:, None] * (heads * V) + value_columns[None, :]
    d_values += ((batch.to(tl.int64) * tokens + (end - 1) * C) * heads + head) * V
    if VECTOR:
        gates += (x.to(tl.int64) * chunks + end - 1) * (C * K)
    else:
        gates += (x.to(tl.int64) * chunks + end - 1) * C

    if ENDED:
        d_ends += (x.to(tl.int64) * segments + segment) * (K * V)
        d_state_t = tl.load(d_ends + value_columns[:, None] * K + key_columns[None, :])
    else:
        d_state_t = tl.zeros((BV, K), tl.float32)
    for i in range(end - begin):
        n = end - 1 - i
        place = x * chunks + n
        d_out_t = tl.trans(d_output.load([batch, n * C, head * V + tile * BV]).reshape(C, BV))
        d_low_t = d_state_t.to(kind)
        d_afters.store([place * V + tile * BV, 0], d_low_t)
        inside = rows < tokens - n * C
        if VECTOR:
            queries = q.load([place * C, 0])
            keys = k.load([place * C, 0])
            weights = scores.load([place * C, 0])
            d_state_t *= tl.exp2(tl.load(gates + (C - 1) * K + key_columns))[None, :]
            d_value_t = tl.dot(d_low_t, tl.trans(keys), input_precision=PRECISION)
            d_read_t = d_out_t
            gates -= C * K
        else:
            queries = q.load([batch, n * C, head * K]).reshape(C, K)
            keys = k.load([batch, n * C, head * K]).reshape(C, K)
            sums = tl.load(gates + rows)
            grown = tl.load(gates + plane + rows)[None, :]
            kept = tl.load(gates + 2 * plane.to(tl.int64) + rows)[None, :]
            d_state_t *= tl.exp2(tl.load(gates + (C - 1)))
            d_value_t = tl.dot(d_low_t, tl.trans(keys), input_precision=PRECISION) * kept
            # Rows behind the last token are another sequence's: nothing may come from them.
            past = sums[:, None] - sums[None, :]
            if PRECISION == "tf32x3":
                rest = tl.load(gates + 3 * plane.to(tl.int64) + rows)
                past += rest[:, None] - rest[None, :]
            within = tl.exp2(tl.minimum(past, 0.0)) * scale
            within = tl.where((rows[:, None] >= rows[None, :]) & inside[:, None], within, 0.0)
            weights = (tl.dot(queries, tl.trans(keys), input_precision=PRECISION) * within).to(kind)
            d_read_t = (d_out_t.to(tl.float32) * grown).to(kind)
            gates -= C
        d_value_t = tl.dot(d_out_t, weights, d_value_t, input_precision=PRECISION)
        d_state_t = tl.dot(d_read_t, queries, d_state_t, input_precision=PRECISION)
        tl.store(d_values + value_offsets, tl.trans(d_value_t.to(kind)), mask=inside[:, None])
        d_values -= C * heads * V
    if segment == 0:
        d_initial += x.to(tl.int64) * (K * V)
        tl.store(d_initial + value_columns[:, None] + key_columns[None, :] * V, d_state_t)


@triton.jit
def sums_before(total, but_last, later_total, later_but_last):
    """Sums, and sums of all but the last: a scan of them is exclusive."""
    return total + later_total, total + later_but_last


@triton.jit(do_not_specialize=RUN_TIME)
def inputs_backward_kernel(
    q,
    k,
    v,
    gates,
    d_output,
    befores,
    d_afters,
    d_q,
    d_k,
    d_g,
    scale,
    tokens,
    heads,
    chunks,
    plane,
    K: tl.constexpr,
    V: tl.constexpr,
    BK: tl.constexpr,
    C: tl.constexpr,
    PRECISION: tl.constexpr,
):
    """One chunk of one head with one decay: dq, dk and dg, BK key columns at a time. Grid: X N."""
    n = tl.program_id(0) % chunks
    x = tl.program_id(0) // chunks
    batch = x // heads
    head = x % heads
    kind = q.dtype

    rows = tl.arange(0, C)
    inside = rows < tokens - n * C
    first = (batch.to(tl.int64) * tokens + n * C) * heads + head
    at = x * chunks + n
    offsets = rows[:, None] * (heads * K) + tl.arange(0, BK)[None, :]
    d_q += first * K
    d_k += first * K
    gates += x.to(tl.int64) * chunks * C + n * C
    sums = tl.load(gates + rows)
    grown = tl.load(gates + plane + rows)[:, None]
    kept = tl.load(gates + 2 * plane.to(tl.int64) + rows)[:, None]
    whole = tl.load(gates + (C - 1))
    d_sums = tl.zeros((C,), tl.float32)
    to_end = tl.zeros((C,), tl.float32)
    d_state = tl.zeros((BK, BK), tl.float32)  # its trace is <S, dS'>; a product leaves both in shared memory

    values = v.load([batch, n * C, head * V]).reshape(C, V)
    d_out = d_output.load([batch, n * C, head * V]).reshape(C, V)
    past = sums[:, None] - sums[None, :]
    FINE: tl.constexpr = PRECISION == "tf32x3"
    if FINE:
        rest = tl.load(gates + 3 * plane.to(tl.int64) + rows)
        past += rest[:, None] - rest[None, :]
    # Rows behind the last token are another sequence's: nothing may come from them.
    within = tl.where((rows[:, None] >= rows[None, :]) & inside[:, None], scale, 0.0) * tl.exp2(tl.minimum(past, 0.0))
    d_scores = tl.dot(d_out, tl.trans(values), input_precision=PRECISION) * within
    if FINE:  # A token's score with itself knows no decay: among the products it would leave its rounding in dg.
        own = rows[:, None] == rows[None, :]
        own_score = tl.sum(tl.where(own, d_scores, 0.0), 1)[:, None]
        d_scores = tl.where(own, 0.0, d_scores)
    d_scores = d_scores.to(kind)
    within = tl.where((rows[:, None] <= rows[None, :]) & inside[None, :], scale, 0.0) * tl.exp2(tl.minimum(-past, 0.0))
    d_scores_t = tl.dot(values, tl.trans(d_out), input_precision=PRECISION) * within
    if FINE:
        d_scores_t = tl.where(own, 0.0, d_scores_t)
    d_scores_t = d_scores_t.to(kind)

    for part in range(K // BK):
        before_t = befores.load([at * V, part * BK])
        d_after_t = d_afters.load([at * V, part * BK])
        queries = q.load([batch, n * C, head * K + part * BK]).reshape(C, BK)
        keys = k.load([batch, n * C, head * K + part * BK]).reshape(C, BK)
        d_query = tl.dot(d_out, before_t, input_precision=PRECISION) * grown
        d_query = tl.dot(d_scores, keys, d_query, input_precision=PRECISION)
        d_sums += tl.sum(queries.to(tl.float32) * d_query, 1)
        if FINE:
            d_query += own_score * keys
        tl.store(d_q + offsets, d_query.to(kind), mask=inside[:, None])
        d_key = tl.dot(values, d_after_t, input_precision=PRECISION) * kept
        to_end += tl.sum(keys.to(tl.float32) * d_key, 1)
        if FINE:
            d_pairs = tl.dot(d_scores_t, queries, input_precision=PRECISION)
            d_sums -= tl.sum(keys * d_pairs, 1)
            d_key += d_pairs + own_score * queries
        else:
            d_key = tl.dot(d_scores_t, queries, d_key, input_precision=PRECISION)
            d_sums -= tl.sum(keys.to(tl.float32) * d_key, 1)
        tl.store(d_k + offsets, d_key.to(kind), mask=inside[:, None])
        d_state = tl.dot(tl.trans(before_t), d_after_t, d_state, input_precision=PRECISION)
        d_q += BK
        d_k += BK

    columns = tl.arange(0, BK)
    d_state = tl.sum(tl.where(columns[:, None] == columns[None, :], d_state, 0.0), 0)
    end = tl.exp2(whole) * tl.sum(d_state, 0)
    if not FINE:
        end += tl.sum(to_end, 0)
    d_sums = tl.where(inside, d_sums, 0.0) + tl.where(rows == C - 1, end, 0.0)
    d_gates = tl.cumsum(d_sums, 0, reverse=True)
    if FINE:  # What reaches the end from token j passes the decays after j. The last token's passes none, and is large.
        _, passed = tl.associative_scan((to_end, tl.zeros((C,), tl.float32)), 0, sums_before)
        d_gates += passed
    tl.store(d_g + first + rows * heads, d_gates, mask=inside)


@triton.jit
def add_pairs(
    d_own,
    d_sums,
    own,
    other,
    gates,
    plane,
    d_scores,
    rows,
    columns,
    inside,
    K: tl.constexpr,
    NEAR: tl.constexpr,
    SIGN: tl.constexpr,
    PRECISION: tl.constexpr,
):
    """Adds what the pairs i > j of a chunk give to dq (own q, other k, SIGN 1) or dk (SIGN -1), and to q dq - k dk.

    In blocks as in `prepare_kernel`. q dq - k dk is of the very numbers that are multiplied: so what rounding adds to a
    pair's q dq, its k dk takes away again. Inputs are loaded again for every block size: to keep them, in the layouts
    of loads and of products, would spill registers. Triton would keep them but for the barrier.
    """
    kind = d_scores.dtype
    for level in range(NEAR, 6):
        tl.debug_barrier()
        places = rows[:, None] * K + columns[None, :]
        borders = border(rows, level)[:, None] * K + columns[None, :]
        past = tl.load(gates + places) - tl.load(gates + borders)
        if PRECISION == "tf32x3":
            past += tl.load(gates + plane + places) - tl.load(gates + plane + borders)
        past *= SIGN
        factor = tl.exp2(tl.where(level == NEAR, past, -tl.abs(past)))
        left = (tl.load(own, mask=inside[:, None], other=0.0).to(tl.float32) * factor).to(kind)
        right = tl.load(other, mask=inside[:, None], other=0.0).to(tl.float32)
        right = (right * tl.exp2(tl.where(level == NEAR, -past, -tl.abs(past)))).to(kind)
        apart = rows[:, None] ^ rows[None, :]  # of which the highest bit is `level`, for the nearest at most that
        paired = (apart >= tl.where(level == NEAR, 0, 1 << level)) & (apart < 2 << level)
        found = tl.dot(tl.where(paired, d_scores, 0.0), right, input_precision=PRECISION)
        d_own += factor * found
        d_sums += SIGN * left.to(tl.float32) * found
    return d_own, d_sums


@triton.jit(do_not_specialize=RUN_TIME)
def channel_inputs_backward_kernel(
    q,
    k,
    v,
    gates,
    d_output,
    befores,
    d_afters,
    d_q,
    d_k,
    d_g,
    scale,
    tokens,
    heads,
    chunks,
    plane,
    K: tl.constexpr,
    V: tl.constexpr,
    BK: tl.constexpr,
    C: tl.constexpr,
    NEAR: tl.constexpr,
    PRECISION: tl.constexpr,
):
    """One chunk of one head, BK key channels with a decay each: dq, dk and dg. Grid: X N (K / BK)."""
    PARTS: tl.constexpr = K // BK
    part = tl.program_id(0) % PARTS
    n = tl.program_id(0) // PARTS % chunks
    x = tl.program_id(0) // PARTS // chunks
    batch = x // heads
    head = x % heads
    kind = v.dtype

    rows = tl.arange(0, C)
    columns = part * BK + tl.arange(0, BK)
    inside = rows < tokens - n * C
    at = x * chunks + n
    gates += at.to(tl.int64) * (C * K)

    first = (batch.to(tl.int64) * tokens + n * C) * heads + head
    offsets = first * K + rows[:, None] * (heads * K) + columns[None, :]
    gate_offsets = rows[:, None] * K + columns[None, :]
    sums = tl.load(gates + gate_offsets)
    whole = tl.load(gates + (C - 1) * K + columns)
    values = v.load([batch, n * C, head * V]).reshape(C, V)
    d_out = d_output.load([batch, n * C, head * V]).reshape(C, V)
    befores += at.to(tl.int64) * (V * K)
    d_afters += at.to(tl.int64) * (V * K)
    states = tl.arange(0, V)[:, None] * K + columns[None, :]

    exact_scores = tl.dot(d_out, tl.trans(values), input_precision=PRECISION) * scale
    # A token's score with itself knows no decay: among the products it would leave its rounding in dg.
    own_score = tl.sum(tl.where(rows[:, None] == rows[None, :], exact_scores, 0.0), 1)[:, None]
    d_scores = tl.where(rows[:, None] > rows[None, :], exact_scores, 0.0).to(kind)
    d_query = tl.dot(d_out, tl.load(befores + states), input_precision=PRECISION) * (tl.exp2(sums) * scale)
    d_sums = tl.load(q + offsets, mask=inside[:, None], other=0.0).to(tl.float32) * d_query
    d_query, d_sums = add_pairs(
        d_query, d_sums, q + offsets, k + offsets, gates, plane, d_scores, rows, columns, inside, K, NEAR, 1, PRECISION
    )
    d_query += own_score * tl.load(k + offsets, mask=inside[:, None], other=0.0).to(tl.float32)
    tl.store(d_q + offsets, d_query.to(kind), mask=inside[:, None])

    d_key = tl.dot(values, tl.load(d_afters + states), input_precision=PRECISION)
    d_key *= tl.where(inside[:, None], tl.exp2(whole[None, :] - tl.load(gates + gate_offsets)), 0.0)
    kept = tl.load(k + offsets, mask=inside[:, None], other=0.0).to(tl.float32) * d_key
    FINE: tl.constexpr = PRECISION == "tf32x3"
    if FINE:  # as in `inputs_backward_kernel`
        at_end = tl.zeros((BK,), tl.float32)
        _, passed = tl.associative_scan((kept, kept * 0.0), 0, sums_before)
    else:
        at_end = tl.sum(kept, 0)
        d_sums -= kept
    # Rows behind the last token are another sequence's: nothing may come from them.
    within = tl.where((rows[:, None] < rows[None, :]) & inside[None, :], scale, 0.0)
    d_scores = (tl.dot(values, tl.trans(d_out), input_precision=PRECISION) * within).to(kind)  # now transposed
    d_key, d_sums = add_pairs(
        d_key, d_sums, k + offsets, q + offsets, gates, plane, d_scores, rows, columns, inside, K, NEAR, -1, PRECISION
    )
    d_key += own_score * tl.load(q + offsets, mask=inside[:, None], other=0.0).to(tl.float32)
    tl.store(d_k + offsets, d_key.to(kind), mask=inside[:, None])
    states = tl.arange(0, 16)[:, None] * K + columns[None, :]
    d_state = tl.zeros((BK,), tl.float32)
    for row in range(0, V, 16):  # <S, dS'> of each channel
        before_t = tl.load(befores + row * K + states).to(tl.float32)
        d_state += tl.sum(before_t * tl.load(d_afters + row * K + states).to(tl.float32), 0)
    at_end += tl.exp2(tl.load(gates + (C - 1) * K + columns)) * d_state
    d_sums = tl.where(inside[:, None], d_sums, 0.0)
    if FINE:
        d_gates = tl.cumsum(d_sums, 0, reverse=True) + passed
    else:
        # Sums over tokens as products, each number as two of bfloat16: 2^-17 is left of it, and no shuffle.
        from_end = tl.where(rows[:, None] <= rows[None, :], 1.0, 0.0).to(kind)
        high = d_sums.to(kind)
        d_gates = tl.dot(from_end, high)
        d_gates = tl.dot(from_end, (d_sums - high.to(tl.float32)).to(kind), d_gates)
    tl.store(d_g + offsets, d_gates + at_end[None, :], mask=inside[:, None])
