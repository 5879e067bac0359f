# mypy: ignore-errors
# (Triton's language is not Python's types: a jitted function sees pointers and tiles.)
"""`inputs_backward_kernel` where chunks may leave no writes behind (`lasting`), with the gradient of `lasting`.

A kernel of its own: Triton 3.6 miscompiles this code in some tiles and dtypes (dg, and the gradient of `lasting`), so
what was measured to be right on a GPU is kept as it was measured, with the tile below.
"""

import triton
import triton.language as tl

from hybridsearch.kernels.gated_delta.triton_forward import RUN_TIME


@triton.jit(do_not_specialize=RUN_TIME)
def lasting_inputs_backward_kernel(
    q,
    k,
    gates,
    d_output,
    d_values,
    errors,
    befores,
    d_afters,
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
    K: tl.constexpr,
    V: tl.constexpr,
    BK: tl.constexpr,
    C: tl.constexpr,
    GATED: tl.constexpr,
    PRECISION: tl.constexpr,
    lasting=None,
    d_lasting=None,
):
    """One chunk of one head: dq and dk (a value head's share), dg and dbeta, BK key columns at a time. Grid: X N."""
    n = tl.program_id(0) % chunks
    x = tl.program_id(0) // chunks
    batch = x // value_heads
    value_head = x % value_heads
    head = value_head // (value_heads // heads)
    kind = q.dtype.element_ty

    rows = tl.arange(0, C)
    columns = tl.arange(0, BK)
    value_columns = tl.arange(0, V)
    inside = rows < tokens - n * C
    first = batch.to(tl.int64) * tokens + n * C
    value_offsets = rows[:, None] * (value_heads * V) + value_columns[None, :]
    padded = x.to(tl.int64) * chunks * C + n * C
    d_output += (first * value_heads + value_head) * V
    d_values += (first * value_heads + value_head) * V

    d_out = tl.load(d_output + value_offsets, mask=inside[:, None], other=0.0)
    error_t = tl.load(errors + padded * V + value_columns[:, None] * C + rows[None, :])
    d_value = tl.load(d_values + value_offsets, mask=inside[:, None], other=0.0)
    gates += padded + rows
    strength = tl.load(gates + plane)
    d_scores = tl.dot(d_out, error_t, input_precision=PRECISION) * scale
    d_scores_t = tl.dot(tl.trans(error_t), tl.trans(d_out), input_precision=PRECISION) * scale
    d_system = -tl.dot(d_value, error_t, input_precision=PRECISION)
    d_system_t = -tl.dot(tl.trans(error_t), tl.trans(d_value), input_precision=PRECISION)
    if GATED:
        sums = tl.load(gates)
        last_sum = tl.sum(tl.where(rows == C - 1, sums, 0.0), 0)
        within = tl.exp2(tl.minimum(sums[:, None] - sums[None, :], 0.0))
        d_scores *= within
        d_system *= within
        within = tl.exp2(tl.minimum(sums[None, :] - sums[:, None], 0.0))
        d_scores_t *= within
        d_system_t *= within
        grown = tl.exp2(sums)[:, None]
        kept = tl.exp2(last_sum - sums)[:, None]
    d_scores = tl.where(rows[:, None] >= rows[None, :], d_scores, 0.0).to(kind)
    d_scores_t = tl.where(rows[:, None] <= rows[None, :], d_scores_t, 0.0).to(kind)
    d_system = tl.where(rows[:, None] > rows[None, :], d_system, 0.0).to(kind)
    d_system_t = tl.where(rows[:, None] < rows[None, :], d_system_t, 0.0).to(kind)

    key_offsets = rows[:, None] * (heads * K) + columns[None, :]
    share_offsets = rows[:, None] * (value_heads * K) + columns[None, :]
    state_offsets = value_columns[:, None] * K + columns[None, :]
    q += (first * heads + head) * K
    k += (first * heads + head) * K
    d_q += (first * value_heads + value_head) * K
    d_k += (first * value_heads + value_head) * K
    befores += (x.to(tl.int64) * chunks + n) * (K * V)
    d_afters += (x.to(tl.int64) * chunks + n) * (K * V)
    d_sums = tl.zeros((C,), tl.float32)
    d_strength = tl.zeros((C,), tl.float32)
    at_end = tl.zeros((C,), tl.float32)
    d_state = tl.zeros((V,), tl.float32)
    ENDS: tl.constexpr = GATED or lasting is not None
    if lasting is not None:
        place = (batch * chunks + n) * value_heads + value_head
        lasts = tl.load(lasting + place).to(tl.float32)
    for _ in range(K // BK):
        keys = tl.load(k + key_offsets, mask=inside[:, None], other=0.0)
        queries = tl.load(q + key_offsets, mask=inside[:, None], other=0.0)
        d_after_t = tl.load(d_afters + state_offsets)
        before_t = tl.load(befores + state_offsets)
        column = tl.dot(tl.trans(error_t), d_after_t, input_precision=PRECISION)
        # dg is a small difference of large sums. Beta goes to the keys, not into d_scores and d_system, and these
        # rounded keys into dg as well: so each rounding stands in both sums and falls out (0.33 % for 0.45 at K = 64).
        written = (keys.to(tl.float32) * strength[:, None]).to(kind)
        if lasting is not None:
            column *= lasts
        if GATED:
            column *= kept
        if ENDS:
            at_end += tl.sum(written.to(tl.float32) * column, 1)
        column = tl.dot(d_scores_t, queries, column, input_precision=PRECISION)
        column = tl.dot(d_system_t, keys, column, input_precision=PRECISION)
        d_strength += tl.sum(keys.to(tl.float32) * column, 1)
        if GATED:
            d_sums -= tl.sum(written.to(tl.float32) * column, 1)
        if GATED:
            d_state += tl.sum(before_t.to(tl.float32) * d_after_t.to(tl.float32), 1)
        row = -tl.dot(d_value, before_t, input_precision=PRECISION)
        if GATED:
            row *= grown
        row = tl.dot(d_system, written, row, input_precision=PRECISION)
        tl.store(d_k + share_offsets, (row + strength[:, None] * column).to(kind), mask=inside[:, None])
        if GATED:
            d_sums += tl.sum(keys.to(tl.float32) * row, 1)
        d_query = scale * tl.dot(d_out, before_t, input_precision=PRECISION)
        if GATED:
            d_query *= grown
        d_query = tl.dot(d_scores, written, d_query, input_precision=PRECISION)
        tl.store(d_q + share_offsets, d_query.to(kind), mask=inside[:, None])
        if GATED:
            if V > 64:  # loaded again rather than held: registers are short with many values
                queries = tl.load(q + key_offsets, mask=inside[:, None], other=0.0, cache_modifier=".ca")
            d_sums += tl.sum(queries.to(tl.float32) * d_query, 1)
        k += BK
        q += BK
        d_q += BK
        d_k += BK
        befores += BK
        d_afters += BK

    gate_offsets = first * value_heads + value_head + rows * value_heads
    if lasting is not None:
        tl.store(d_lasting + place, tl.sum(at_end, 0))
    tl.store(d_beta + gate_offsets, d_strength.to(d_beta.dtype.element_ty), mask=inside)
    if GATED:
        at_end = tl.sum(at_end, 0) + tl.exp2(last_sum) * tl.sum(d_state, 0)
        d_sums = tl.where(rows == C - 1, d_sums + at_end, d_sums)
        tl.store(d_g + gate_offsets, tl.cumsum(d_sums, 0, reverse=True).to(d_g.dtype.element_ty), mask=inside)
