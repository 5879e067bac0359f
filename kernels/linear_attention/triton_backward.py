# mypy: ignore-errors
# (Triton's language is not Python's types: a jitted function sees pointers and tiles.)
"""Triton kernels of gated linear attention's backward pass; axes, padding and names as in `triton_forward`.

dV = exp(gl - G) K dS' + A^T dO and dS = exp(gl) dS' + (scale exp(G) Q)^T dO run over the chunks from the last to the
first; then every chunk alone finds dq and dk from dA = scale tril(dO V^T), S and dS', and with them
dG = q dq - k dk, to which the end of the chunk adds <S', dS'>; dg is dG summed from the end.
"""

import triton
import triton.language as tl

from hybridsearch.kernels.linear_attention.triton_forward import (
    RUN_TIME,
    decay_from_border,
    is_paired,
    nearest_level,
    place_of,
    scaled,
)


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
    tile, segment, x, batch, head = place_of(heads, segments, V // BV)
    kind = d_output.dtype
    FINE: tl.constexpr = PRECISION == "tf32x3"

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
            d_state_t *= tl.exp2(tl.load(gates + (C - 1)))
            # Rows behind the last token are another sequence's: nothing may come from them.
            past = sums[:, None] - sums[None, :]
            if FINE:
                rest = tl.load(gates + 3 * plane.to(tl.int64) + rows)
                past += rest[:, None] - rest[None, :]
            within = tl.exp2(tl.minimum(past, 0.0)) * scale
            within = tl.where((rows[:, None] >= rows[None, :]) & inside[:, None], within, 0.0)
            weights = (tl.dot(queries, tl.trans(keys), input_precision=PRECISION) * within).to(kind)
            if FINE:  # Its three parts would wait in registers, but for the barrier.
                tl.debug_barrier()
                keys = k.load([batch, n * C, head * K]).reshape(C, K)
            kept = tl.load(gates + 2 * plane.to(tl.int64) + rows)[None, :]
            d_value_t = tl.dot(d_low_t, tl.trans(keys), input_precision=PRECISION) * kept
            grown = tl.load(gates + plane + rows)[None, :]
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
    _, n, x, batch, head = place_of(heads, chunks, 1)
    kind = q.dtype

    rows = tl.arange(0, C)
    inside = rows < tokens - n * C
    first = (batch.to(tl.int64) * tokens + n * C) * heads + head
    at = x * chunks + n
    gates += x.to(tl.int64) * chunks * C + n * C
    sums = tl.load(gates + rows)
    grown = tl.load(gates + plane + rows)[:, None]
    kept = tl.load(gates + 2 * plane.to(tl.int64) + rows)[:, None]
    whole = tl.load(gates + (C - 1))
    d_sums = tl.zeros((C,), tl.float32)
    to_end = tl.zeros((C,), tl.float32)
    end = tl.zeros((BK,), tl.float32)
    columns = tl.arange(0, BK)
    diagonal = columns[:, None] == columns[None, :]

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
        if FINE:  # as in `add_pairs`
            tl.debug_barrier()
            d_out = d_output.load([batch, n * C, head * V]).reshape(C, V)
        before_t = befores.load([at * V, part * BK])
        queries = q.load([batch, n * C, head * K + part * BK]).reshape(C, BK)
        keys = k.load([batch, n * C, head * K + part * BK]).reshape(C, BK)
        d_query = tl.dot(d_out, before_t, input_precision=PRECISION) * grown
        d_query = tl.dot(d_scores, keys, d_query, input_precision=PRECISION)
        d_sums += tl.sum(queries.to(tl.float32) * d_query, 1)
        if FINE:
            d_query += own_score * keys
        d_q.store([batch, n * C, head * K + part * BK], d_query.to(kind)[None, :, :])
        if FINE:
            tl.debug_barrier()
            values = v.load([batch, n * C, head * V]).reshape(C, V)
        d_after_t = d_afters.load([at * V, part * BK])
        d_key = tl.dot(values, d_after_t, input_precision=PRECISION) * kept
        to_end += tl.sum(keys.to(tl.float32) * d_key, 1)
        if FINE:
            d_pairs = tl.dot(d_scores_t, queries, input_precision=PRECISION)
            d_sums -= tl.sum(keys * d_pairs, 1)
            d_key += d_pairs + own_score * queries
        else:
            d_key = tl.dot(d_scores_t, queries, d_key, input_precision=PRECISION)
            d_sums -= tl.sum(keys.to(tl.float32) * d_key, 1)
        d_k.store([batch, n * C, head * K + part * BK], d_key.to(kind)[None, :, :])
        if FINE:
            end += tl.sum(before_t * d_after_t, 0)
        else:  # <S, dS'> as the trace of a product leaves both in shared memory
            d_state = tl.dot(tl.trans(before_t), d_after_t)
            end += tl.sum(tl.where(diagonal, d_state, 0.0), 1)

    end = tl.exp2(whole) * tl.sum(end, 0)
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
    one,
    two,
    scale,
    rows,
    columns,
    inside,
    near,
    K: tl.constexpr,
    TOP: tl.constexpr,
    SIGN: tl.constexpr,
    PRECISION: tl.constexpr,
):
    """Adds what the pairs i > j of a chunk give to dq (own q, other k, SIGN 1) or dk (SIGN -1), and to q dq - k dk.

    dA is scale `one` `two`^T, of dO and V or, transposed, of V and dO; levels are as in `prepare_kernel`. q dq - k dk
    is of the very numbers that are multiplied: so what rounding adds to a pair's q dq, its k dk takes away again. dA is
    found and inputs are loaded where they are needed, again and again: to keep them, in the layouts of loads and of
    products, would spill registers. Triton would keep them but for the barriers.
    """
    kind = one.dtype
    FINE: tl.constexpr = PRECISION == "tf32x3"
    for level in range(near, TOP + 1):
        tl.debug_barrier()
        past = decay_from_border(gates, plane, rows, columns, level, K, FINE)
        _, right = scaled(other, -SIGN * past, inside[:, None], level, near)
        paired = is_paired(rows, level, near)
        if SIGN == 1:
            paired &= rows[:, None] > rows[None, :]
        else:  # Rows behind the last token are another sequence's: nothing may come from them.
            paired &= (rows[:, None] < rows[None, :]) & inside[None, :]
        d_scores = tl.dot(one, tl.trans(two), input_precision=PRECISION)
        d_scores = tl.where(paired, d_scores * scale, 0.0).to(kind)
        found = tl.dot(d_scores, right.to(kind), input_precision=PRECISION)
        tl.debug_barrier()
        past = decay_from_border(gates, plane, rows, columns, level, K, FINE)
        factor, left = scaled(own, SIGN * past, inside[:, None], level, near)
        d_own += factor * found
        d_sums += SIGN * left.to(kind).to(tl.float32) * found
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
    at_ends,
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
    TOP: tl.constexpr,
    PRECISION: tl.constexpr,
):
    """One chunk of one head, BK key channels with a decay each: dq, dk and dg. Grid: X N (K / BK).

    What dg gets from the end of the chunk waits in `at_ends` [X, N, K], since in registers it would be spilled.
    """
    PARTS: tl.constexpr = K // BK
    part, n, _, batch, head = place_of(heads, chunks, PARTS)
    kind = v.dtype.element_ty

    rows = tl.arange(0, C)
    columns = part * BK + tl.arange(0, BK)
    inside = rows < tokens - n * C
    at = (tl.program_id(0) // PARTS).to(tl.int64)
    gates += at * (C * K)
    first = (batch.to(tl.int64) * tokens + n * C) * heads + head
    q += first * K
    k += first * K
    offsets = rows[:, None] * (heads * K) + columns[None, :]
    gate_offsets = rows[:, None] * K + columns[None, :]
    v += first * V
    d_output += first * V
    outputs = rows[:, None] * (heads * V) + tl.arange(0, V)[None, :]
    befores += at * (V * K)
    d_afters += at * (V * K)
    states = tl.arange(0, V)[:, None] * K + columns[None, :]

    # All that comes from far is asked for at once: what this kernel takes is latency, three times what its bytes take.
    sums = tl.load(gates + gate_offsets)
    whole = tl.load(gates + (C - 1) * K + columns)
    values = tl.load(v + outputs, mask=inside[:, None], other=0.0)
    d_out = tl.load(d_output + outputs, mask=inside[:, None], other=0.0)
    before_t = tl.load(befores + states)
    d_after_t = tl.load(d_afters + states)
    d_state = tl.sum(before_t.to(tl.float32) * d_after_t.to(tl.float32), 0)  # <S, dS'> of each channel
    own_end = tl.program_id(0) * BK + tl.arange(0, BK)
    tl.store(at_ends + own_end, tl.exp2(whole) * d_state)
    near = nearest_level(gates, columns, K, C, NEAR, TOP)

    # A token's score with itself knows no decay: among the products it would leave its rounding in dg.
    own_score = tl.sum(d_out.to(tl.float32) * values.to(tl.float32), 1)[:, None] * scale
    d_query = tl.dot(d_out, before_t, input_precision=PRECISION) * (tl.exp2(sums) * scale)
    d_sums = tl.load(q + offsets, mask=inside[:, None], other=0.0).to(tl.float32) * d_query
    d_query += own_score * tl.load(k + offsets, mask=inside[:, None], other=0.0).to(tl.float32)
    d_query, d_sums = add_pairs(
        d_query, d_sums, q + offsets, k + offsets, gates, plane, d_out, values, scale, rows, columns, inside, near,
        K, TOP, 1, PRECISION
    )  # fmt: skip
    d_q.store([batch, n * C, head * K + part * BK], d_query.to(kind)[None, :, :])

    d_key = tl.dot(values, d_after_t, input_precision=PRECISION)
    past = tl.load(gates + (C - 1) * K + columns)[None, :] - tl.load(gates + gate_offsets)
    d_key *= tl.where(inside[:, None], tl.exp2(past), 0.0)
    kept = tl.load(k + offsets, mask=inside[:, None], other=0.0).to(tl.float32) * d_key
    FINE: tl.constexpr = PRECISION == "tf32x3"
    if FINE:  # as in `inputs_backward_kernel`
        _, passed = tl.associative_scan((kept, kept * 0.0), 0, sums_before)
    else:
        tl.store(at_ends + own_end, tl.load(at_ends + own_end) + tl.sum(kept, 0))
        d_sums -= kept
    d_key += own_score * tl.load(q + offsets, mask=inside[:, None], other=0.0).to(tl.float32)
    d_key, d_sums = add_pairs(
        d_key, d_sums, k + offsets, q + offsets, gates, plane, values, d_out, scale, rows, columns, inside, near,
        K, TOP, -1, PRECISION
    )  # fmt: skip
    d_k.store([batch, n * C, head * K + part * BK], d_key.to(kind)[None, :, :])
    d_sums = tl.where(inside[:, None], d_sums, 0.0)
    if FINE:
        d_gates = tl.cumsum(d_sums, 0, reverse=True) + passed
    else:
        # Sums over tokens as products, each number as two of bfloat16: 2^-17 is left of it, and no shuffle.
        from_end = tl.where(rows[:, None] <= rows[None, :], 1.0, 0.0).to(kind)
        high = d_sums.to(kind)
        d_gates = tl.dot(from_end, high)
        d_gates = tl.dot(from_end, (d_sums - high.to(tl.float32)).to(kind), d_gates)
    d_g.store([batch, n * C, head * K + part * BK], (d_gates + tl.load(at_ends + own_end)[None, :])[None, :, :])
