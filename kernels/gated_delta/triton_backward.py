# mypy: ignore-errors
# (Triton's language is not Python's types: a jitted function sees pointers and tiles.)
"""Triton kernels of the gated delta rule's backward pass; axes, padding and formulas as in `triton_forward`.

dV = A^T (P^T dO + beta exp(gl - gc) K dS') and dS = exp(gl) dS' + (scale exp(gc) Q)^T dO - (exp(gc) K)^T dV run over
the chunks from the last to the first; then every chunk alone finds dq, dk, dg and dbeta from dO E^T, dV E^T, dO S^T,
dV S^T and E dS'^T, without A; only dg asks for P and K K^T again. A transposed accumulator as left operand is
miscompiled on Hopper before Triton 3.7.1: what is needed both ways is stored and loaded.
"""

import triton
import triton.language as tl

from hybridsearch.kernels.gated_delta.triton_forward import RUN_TIME, add_in_two_parts, float16_units


@triton.jit(do_not_specialize=RUN_TIME)
def values_backward_kernel(
    q,
    k,
    inverse,
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
    value_heads,
    chunks,
    segments,
    span,
    plane,
    K: tl.constexpr,
    V: tl.constexpr,
    BV: tl.constexpr,
    C: tl.constexpr,
    GATED: tl.constexpr,
    ENDED: tl.constexpr,
    ALONE: tl.constexpr,
    PRECISION: tl.constexpr,
):
    """A segment of one head, BV value columns, from its last chunk to its first. Grid: X G (V / BV).

    Stores dv and the gradient of the state after each chunk. ALONE, it starts from zero and stores only what it
    adds to the gradient of the state before the segment, where the segment before ends; grid: X (G - 1) (V / BV).
    """
    TILES: tl.constexpr = V // BV
    tile = tl.program_id(0) % TILES
    x_segment = tl.program_id(0) // TILES
    if ALONE:
        segment = x_segment % (segments - 1) + 1
        x = x_segment // (segments - 1)
    else:
        segment = x_segment % segments
        x = x_segment // segments
    batch = x // value_heads
    value_head = x % value_heads
    head = value_head // (value_heads // heads)
    kind = q.dtype
    FINE: tl.constexpr = inverse.dtype == tl.float16

    rows = tl.arange(0, C)
    value_columns = tile * BV + tl.arange(0, BV)
    begin = segment * span
    end = tl.minimum(begin + span, chunks)
    state_offsets = value_columns[:, None] * K + tl.arange(0, K)[None, :]
    value_offsets = rows[:, None] * (value_heads * V) + value_columns[None, :]
    d_values += ((batch.to(tl.int64) * tokens + (end - 1) * C) * value_heads + value_head) * V
    gates += x.to(tl.int64) * chunks * C + (end - 1) * C

    place = x.to(tl.int64) * segments + segment
    if ENDED and not ALONE:
        d_state_t = tl.load(d_ends + place * (K * V) + state_offsets)
    else:
        d_state_t = tl.zeros((BV, K), tl.float32)
    if GATED:
        whole_sum = tl.load(gates + (C - 1))
    for i in range(end - begin):
        n = end - 1 - i
        at = x * chunks + n
        keys = k.load([batch, n * C, head * K]).reshape(C, K)
        queries = q.load([batch, n * C, head * K]).reshape(C, K)
        d_out_t = tl.trans(d_output.load([batch, n * C, value_head * V + tile * BV]).reshape(C, BV))
        solve = inverse.load([at * C, 0])
        weights = scores.load([at * C, 0])
        kept = tl.load(gates + 3 * plane.to(tl.int64) + rows)[None, :]
        d_low_t = d_state_t.to(kind)
        if not ALONE:
            d_afters.store([at * V + tile * BV, 0], d_low_t)
        d_error_t = tl.dot(d_low_t, tl.trans(keys), input_precision=PRECISION)
        if FINE:
            d_read_t = d_out_t.to(tl.float32) * scale
            # Here, not below: it leaves its registers before the two parts need them.
            d_state_t = tl.dot(d_read_t.to(kind), queries, d_state_t, input_precision=PRECISION)
        d_error_t = kept * d_error_t
        if FINE:
            largest = tl.max(tl.maximum(tl.abs(d_error_t), tl.abs(d_read_t)), 1, keep_dims=True)
            units, inverse_units = float16_units(largest)
            d_error_t = tl.dot((d_read_t * inverse_units).to(tl.float16), weights, d_error_t * inverse_units)
            d_value_t = tl.dot(d_error_t.to(tl.float16), solve) * units
        else:
            d_error_t = tl.dot(d_out_t, weights, d_error_t, input_precision=PRECISION)
            d_value_t = tl.dot(d_error_t.to(kind), solve, input_precision=PRECISION)
        if not ALONE:
            inside = (rows < tokens - n * C)[:, None]
            tl.store(d_values + value_offsets, tl.trans(d_value_t.to(kind)), mask=inside)
        if FINE:
            d_state_t = add_in_two_parts(d_state_t, -d_value_t, keys)
        else:
            d_read_t = d_out_t.to(tl.float32) * scale
            grown = tl.load(gates + 2 * plane.to(tl.int64) + rows)[None, :]
            d_read_t *= grown
            if GATED:
                d_value_t *= grown
                d_state_t *= tl.exp2(whole_sum)
                whole_sum = tl.load(gates - 1, mask=n > begin, other=0.0)
            d_state_t = tl.dot((-d_value_t).to(kind), keys, d_state_t, input_precision=PRECISION)
            d_state_t = tl.dot(d_read_t.to(kind), queries, d_state_t, input_precision=PRECISION)
        d_values -= C * value_heads * V
        gates -= C
    if ALONE:
        tl.store(d_ends + (place - 1) * (K * V) + state_offsets, d_state_t)
    else:
        if segment == 0:
            d_initial += x.to(tl.int64) * (K * V)
            tl.store(d_initial + value_columns[:, None] + tl.arange(0, K)[None, :] * V, d_state_t)


@triton.jit(do_not_specialize=RUN_TIME)
def inputs_backward_kernel(
    q,
    k,
    scores,
    gates,
    d_output,
    d_values,
    errors,
    befores,
    d_afters,
    d_scores,
    d_system,
    d_q,
    d_k,
    d_g,
    d_beta,
    scale,
    tokens,
    heads,
    value_heads,
    chunks,
    plane,
    lasting,
    d_lasting,
    errors_rest,
    K: tl.constexpr,
    V: tl.constexpr,
    BK: tl.constexpr,
    C: tl.constexpr,
    GATED: tl.constexpr,
    PRECISION: tl.constexpr,
):
    """One chunk of one head: dq and dk (a value head's share), dg and dbeta, BK key columns at a time. Grid: X N.

    `d_scores` and `d_system` [X, N, C, C] are scratch: what is loaded again comes to the tensor cores from shared
    memory, either way round, instead of filling registers. FINE (see `triton_forward`), they are float16 in units of a
    power of two near the square's largest number.
    """
    n = tl.program_id(0) % chunks
    x = tl.program_id(0) // chunks
    batch = x // value_heads
    value_head = x % value_heads
    head = value_head // (value_heads // heads)
    kind = q.dtype.element_ty
    FINE: tl.constexpr = d_system.dtype.element_ty == tl.float16

    rows = tl.arange(0, C)
    columns = tl.arange(0, BK)
    value_columns = tl.arange(0, V)
    inside = rows < tokens - n * C
    first = batch.to(tl.int64) * tokens + n * C
    value_offsets = rows[:, None] * (value_heads * V) + value_columns[None, :]
    padded = x.to(tl.int64) * chunks * C + n * C
    squares = padded * C + rows[:, None] * C + rows[None, :]
    d_output += (first * value_heads + value_head) * V
    d_values += (first * value_heads + value_head) * V
    q += (first * heads + head) * K
    k += (first * heads + head) * K
    gates += padded + rows

    strength = tl.load(gates + plane)
    error_t = tl.load(errors + padded * V + value_columns[:, None] * C + rows[None, :])
    if errors_rest is not None:
        rest_t = tl.load(errors_rest + padded * V + value_columns[:, None] * C + rows[None, :])
    d_out = tl.load(d_output + value_offsets, mask=inside[:, None], other=0.0)
    d_value = tl.load(d_values + value_offsets, mask=inside[:, None], other=0.0)
    found = tl.dot(d_out, error_t, input_precision=PRECISION)
    if GATED:
        # dg is a small difference of large sums: what a pair of tokens adds to one's, it takes from the other's, so it
        # is one float32 number in both (with rounded factors in sums over the keys: 0.46 % for 0.33 at K = 16).
        flow = found * tl.load(scores + squares).to(tl.float32)
        sums = tl.load(gates)
        last_sum = tl.sum(tl.where(rows == C - 1, sums, 0.0), 0)
        grown = tl.exp2(sums)[:, None]
        kept = tl.exp2(last_sum - sums)
        found *= tl.exp2(tl.minimum(sums[:, None] - sums[None, :], 0.0))
    found = tl.where(rows[:, None] >= rows[None, :], found * scale, 0.0)
    if FINE:
        of_scores_units, inverse_units = float16_units(tl.max(tl.abs(found)))
        found *= inverse_units
    tl.store(d_scores + squares, found.to(d_scores.dtype.element_ty))
    found = -tl.dot(d_value, error_t, input_precision=PRECISION)
    if GATED:
        found *= tl.exp2(tl.minimum(sums[:, None] - sums[None, :], 0.0))
    found = tl.where(rows[:, None] > rows[None, :], found, 0.0)
    if FINE:
        of_system_units, inverse_units = float16_units(tl.max(tl.abs(found)))
        found *= inverse_units
    tl.store(d_system + squares, found.to(d_system.dtype.element_ty))
    d_sums = tl.zeros((C,), tl.float32)
    if GATED:
        all_offsets = rows[:, None] * (heads * K) + tl.arange(0, K)[None, :]
        all_keys = tl.load(k + all_offsets, mask=inside[:, None], other=0.0)
        flow += found * strength[None, :] * tl.dot(all_keys, tl.trans(all_keys), input_precision=PRECISION)
        d_sums = tl.sum(flow, 1) - tl.sum(flow, 0)
    tl.debug_barrier()  # the squares that are read next are stored by other threads
    of_scores = tl.load(d_scores + squares)
    of_system = tl.load(d_system + squares)

    key_offsets = rows[:, None] * (heads * K) + columns[None, :]
    share_offsets = rows[:, None] * (value_heads * K) + columns[None, :]
    state_offsets = value_columns[:, None] * K + columns[None, :]
    d_q += (first * value_heads + value_head) * K
    d_k += (first * value_heads + value_head) * K
    befores += (x.to(tl.int64) * chunks + n) * (K * V)
    d_afters += (x.to(tl.int64) * chunks + n) * (K * V)
    d_strength = tl.zeros((C,), tl.float32)
    to_end = tl.zeros((C,), tl.float32)
    d_state = tl.zeros((V,), tl.float32)
    if lasting is not None:
        place = (batch * chunks + n) * value_heads + value_head
        lasts = tl.load(lasting + place).to(tl.float32)
    for _ in range(K // BK):
        keys = tl.load(k + key_offsets, mask=inside[:, None], other=0.0)
        queries = tl.load(q + key_offsets, mask=inside[:, None], other=0.0)
        d_after_t = tl.load(d_afters + state_offsets)
        before_t = tl.load(befores + state_offsets)
        if GATED:
            d_state += tl.sum(before_t.to(tl.float32) * d_after_t.to(tl.float32), 1)
        column = tl.dot(tl.trans(error_t), d_after_t, input_precision=PRECISION)
        if errors_rest is not None:
            # The gradient of `lasting`, and dg, are small sums of this product: what rounding took from E counts in it
            # (on an H200 the worst of 70 draws of 128 to 256 tokens: 0.48 % for 1.2 %), in the others it does not.
            column = tl.dot(tl.trans(rest_t), d_after_t, column, input_precision=PRECISION)
        if GATED or lasting is not None:
            # Of the product before it is scaled: ptxas takes keys * column before and after two more products are
            # added to column in place (wgmma) for one and the same; in four warps that lost dg, at some sizes.
            to_end += tl.sum(keys.to(tl.float32) * column, 1)
        if lasting is not None:
            column *= lasts
        if GATED:
            column *= kept[:, None]
        if FINE:
            column += tl.dot(tl.trans(of_scores), queries.to(tl.float16)) * of_scores_units
            column += tl.dot(tl.trans(of_system), keys.to(tl.float16)) * of_system_units
        else:
            column = tl.dot(tl.trans(of_scores), queries, column, input_precision=PRECISION)
            column = tl.dot(tl.trans(of_system), keys, column, input_precision=PRECISION)
        d_strength += tl.sum(keys.to(tl.float32) * column, 1)
        written = (keys.to(tl.float32) * strength[:, None]).to(d_system.dtype.element_ty)
        row = -tl.dot(d_value, before_t, input_precision=PRECISION)
        if GATED:
            row *= grown
            d_sums += tl.sum(keys.to(tl.float32) * row, 1)
        if FINE:
            row += tl.dot(of_system, written) * of_system_units
        else:
            row = tl.dot(of_system, written, row, input_precision=PRECISION)
        tl.store(d_k + share_offsets, (row + strength[:, None] * column).to(kind), mask=inside[:, None])
        d_query = scale * tl.dot(d_out, before_t, input_precision=PRECISION)
        if GATED:
            d_query *= grown
            d_sums += tl.sum(queries.to(tl.float32) * d_query, 1)
        if FINE:
            d_query += tl.dot(of_scores, written) * of_scores_units
        else:
            d_query = tl.dot(of_scores, written, d_query, input_precision=PRECISION)
        tl.store(d_q + share_offsets, d_query.to(kind), mask=inside[:, None])
        k += BK
        q += BK
        d_q += BK
        d_k += BK
        befores += BK
        d_afters += BK

    gate_offsets = first * value_heads + value_head + rows * value_heads
    tl.store(d_beta + gate_offsets, d_strength.to(d_beta.dtype.element_ty), mask=inside)
    to_end *= strength
    if GATED:
        to_end *= kept
    if lasting is not None:
        to_end *= tl.load(lasting + place).to(tl.float32)  # again: kept over the loop, it is a register too many
        tl.store(d_lasting + place, tl.sum(to_end, 0))
    if GATED:
        at_end = tl.sum(to_end, 0) + tl.exp2(last_sum) * tl.sum(d_state, 0)
        d_sums = tl.cumsum(d_sums - to_end, 0, reverse=True) + at_end
        tl.store(d_g + gate_offsets, d_sums.to(d_g.dtype.element_ty), mask=inside)
