# mypy: ignore-errors
# (Triton's language is not Python's types: a jitted function sees pointers and tiles.)
"""Triton kernels of the backward pass of the delta rule with a decay a key channel; names as in `triton_forward`.

dE = P^T dO + (exp(gl - G) W) dS' and dS = exp(gl) dS' + (scale exp(G) Q)^T dO - (A exp(G) K)^T dE run over the chunks
from the last to the first. Then every chunk alone finds the rest: dV = A^T dE, the gradients of the pairs dO E^T and
-dV E^T, with them and with dO S^T, dV S^T and E dS'^T the gradients of q, of k as a row and of w as a column, and
dG = q dq + k dk - w dw, to which the end of the chunk adds <S', dS'>; dg is dG summed from the end. A transposed
product is computed from its operands (E dO^T for (dO E^T)^T): a transposed accumulator as left operand is miscompiled
on Hopper before Triton 3.7.1.
"""

import triton
import triton.language as tl

from hybridsearch.kernels.kimi_delta.triton_forward import RUN_TIME, border, is_pair, smallest_blocks


@triton.jit(do_not_specialize=RUN_TIME)
def errors_backward_kernel(
    reads,
    erases,
    writes,
    scores,
    gates,
    d_output,
    d_ends,
    d_errors,
    d_afters,
    d_initial,
    value_heads,
    chunks,
    segments,
    span,
    K: tl.constexpr,
    V: tl.constexpr,
    BV: tl.constexpr,
    C: tl.constexpr,
    ENDED: tl.constexpr,
    ALONE: tl.constexpr,
    PRECISION: tl.constexpr,
):
    """A segment of one head, BV value columns, from its last chunk to its first. Grid: X (segments) (V / BV).

    Stores dE and the gradient of the state after each chunk. ALONE, it starts from zero and stores only what it adds to
    the gradient of the state before the segment, where the segment before ends; grid: X (segments - 1) (V / BV).
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
    kind = reads.dtype

    key_columns = tl.arange(0, K)
    value_columns = tile * BV + tl.arange(0, BV)
    begin = segment * span
    end = tl.minimum(begin + span, chunks)
    state_offsets = value_columns[:, None] * K + key_columns[None, :]
    gates += (x.to(tl.int64) * chunks + end - 1) * (C * K) + (C - 1) * K + key_columns
    at = x.to(tl.int64) * segments + segment
    d_state_t = tl.zeros((BV, K), tl.float32)
    if ENDED and not ALONE:
        d_state_t = tl.load(d_ends + at * (K * V) + state_offsets)
    for i in range(end - begin):
        n = end - 1 - i
        place = x * chunks + n
        queries = reads.load([place * C, 0])
        erased = erases.load([place * C, 0])
        keys = writes.load([place * C, 0])
        weights = scores.load([place * C, 0])
        d_out_t = tl.trans(d_output.load([batch, n * C, value_head * V + tile * BV]).reshape(C, BV))
        left = tl.exp2(tl.load(gates))[None, :]
        d_low_t = d_state_t.to(kind)
        if not ALONE:
            d_afters.store([place * V + tile * BV, 0], d_low_t)
        d_error_t = tl.dot(d_out_t, weights, input_precision=PRECISION)
        d_error_t = tl.dot(d_low_t, tl.trans(keys), d_error_t, input_precision=PRECISION).to(kind)
        if not ALONE:
            d_errors.store([place * V + tile * BV, 0], d_error_t)
        d_state_t = tl.dot(d_out_t, queries, d_state_t * left, input_precision=PRECISION)
        d_state_t = tl.dot(d_error_t, erased, d_state_t, input_precision=PRECISION)
        gates -= C * K
    if ALONE:
        tl.store(d_ends + (at - 1) * (K * V) + state_offsets, d_state_t)
    else:
        if segment == 0:
            d_initial += x.to(tl.int64) * (K * V)
            tl.store(d_initial + value_columns[:, None] + key_columns[None, :] * V, d_state_t)


@triton.jit(do_not_specialize=RUN_TIME)
def pairs_backward_kernel(
    inverse,
    errors,
    d_errors,
    d_output,
    d_values,
    d_scores,
    d_system,
    scale,
    tokens,
    value_heads,
    chunks,
    V: tl.constexpr,
    C: tl.constexpr,
    PRECISION: tl.constexpr,
):
    """One chunk of one head: dv and the gradients of the pairs, zero above the diagonal. Grid: X N."""
    n = tl.program_id(0) % chunks
    x = tl.program_id(0) // chunks
    kind = errors.dtype.element_ty
    rows = tl.arange(0, C)
    value_columns = tl.arange(0, V)
    inside = (rows < tokens - n * C)[:, None]
    place = x.to(tl.int64) * chunks + n
    first = (x // value_heads).to(tl.int64) * tokens + n * C
    value_offsets = (first * value_heads + x % value_heads) * V
    value_offsets += rows[:, None] * (value_heads * V) + value_columns[None, :]
    error_offsets = place * (V * C) + value_columns[:, None] * C + rows[None, :]
    square_offsets = place * (C * C) + rows[:, None] * C + rows[None, :]

    error_t = tl.load(errors + error_offsets)
    d_out = tl.load(d_output + value_offsets, mask=inside, other=0.0)
    found = tl.dot(d_out, error_t, input_precision=PRECISION) * scale
    tl.store(d_scores + square_offsets, tl.where(rows[:, None] >= rows[None, :], found, 0.0).to(kind))
    solve = tl.load(inverse + square_offsets)
    d_error_t = tl.load(d_errors + error_offsets)
    d_value = tl.dot(tl.trans(solve), tl.trans(d_error_t), input_precision=PRECISION).to(kind)
    tl.store(d_values + value_offsets, d_value, mask=inside)
    found = -tl.dot(d_value, error_t, input_precision=PRECISION)
    tl.store(d_system + square_offsets, tl.where(rows[:, None] > rows[None, :], found, 0.0).to(kind))


@triton.jit(do_not_specialize=RUN_TIME)
def inputs_backward_kernel(
    q,
    k,
    beta,
    gates,
    errors,
    d_output,
    d_values,
    d_scores,
    d_system,
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
    NEAR: tl.constexpr,
    LEVELS: tl.constexpr,
    PRECISION: tl.constexpr,
):
    """One chunk of one head, BK key channels, taken whole: dq and dk (a value head's share), dg and a part of dbeta.

    All that is summed stands in units of the decay from the border in the middle of the chunk, which is left to
    `steep_inputs_backward_kernel` where that might overflow. dG is of the very numbers that are multiplied: so what
    rounding adds to a pair's row, it takes away from its column. `d_beta` [K / BK, B, T, HV] has `plane` numbers a
    part. Grid: X N (K / BK).
    """
    PARTS: tl.constexpr = K // BK
    part = tl.program_id(0) % PARTS
    n = tl.program_id(0) // PARTS % chunks
    x = tl.program_id(0) // PARTS // chunks
    batch = x // value_heads
    value_head = x % value_heads
    head = value_head // (value_heads // heads)
    kind = q.dtype.element_ty

    rows = tl.arange(0, C)
    columns = part * BK + tl.arange(0, BK)
    value_columns = tl.arange(0, V)
    inside = (rows < tokens - n * C)[:, None]
    place = x.to(tl.int64) * chunks + n
    first = batch.to(tl.int64) * tokens + n * C
    gate_offsets = first * value_heads + value_head + rows * value_heads
    q += (first * heads + head) * K + rows[:, None] * (heads * K) + columns[None, :]
    k += (first * heads + head) * K + rows[:, None] * (heads * K) + columns[None, :]
    share_offsets = (first * value_heads + value_head) * K + rows[:, None] * (value_heads * K) + columns[None, :]
    value_offsets = (first * value_heads + value_head) * V + rows[:, None] * (value_heads * V) + value_columns[None, :]
    state_offsets = place * (K * V) + value_columns[:, None] * K + columns[None, :]
    gates += place * (C * K)
    near = smallest_blocks(gates + columns, K, C, NEAR, LEVELS)
    squares = place * (C * C) + rows[:, None] * C + rows[None, :]
    if near < LEVELS - 1:
        return
    gates += columns[None, :]
    strength = tl.load(beta + gate_offsets, mask=rows < tokens - n * C, other=0.0).to(tl.float32)[:, None]

    middle = tl.load(gates + (C // 2 - 1) * K)
    past = tl.load(gates + rows[:, None] * K) - middle
    rise = tl.exp2(past)
    keys = tl.load(k, mask=inside, other=0.0).to(tl.float32)
    written = (keys * strength * tl.exp2(-past)).to(kind)
    before_t = tl.load(befores + state_offsets)
    d_out = tl.load(d_output + value_offsets, mask=inside, other=0.0)
    found = tl.dot(d_out, before_t, input_precision=PRECISION) * (tl.exp2(middle) * scale)
    found = tl.dot(tl.load(d_scores + squares), written, found, input_precision=PRECISION)
    tl.store(d_q + share_offsets, (found * rise).to(kind), mask=inside)
    read = (tl.load(q, mask=inside, other=0.0).to(tl.float32) * rise).to(kind)
    d_sums = read.to(tl.float32) * found
    d_value = tl.load(d_values + value_offsets, mask=inside, other=0.0)
    found = tl.dot(d_value, before_t, input_precision=PRECISION) * -tl.exp2(middle)
    found = tl.dot(tl.load(d_system + squares), written, found, input_precision=PRECISION)
    erased = (keys * rise).to(kind)
    d_sums += erased.to(tl.float32) * found
    d_key = found * rise

    whole = tl.load(gates + (C - 1) * K)
    d_after_t = tl.load(d_afters + state_offsets)
    error_t = tl.load(errors + place * (V * C) + value_columns[:, None] * C + rows[None, :])
    found = tl.dot(tl.trans(error_t), d_after_t, input_precision=PRECISION) * tl.exp2(whole - middle)
    d_state = tl.sum(before_t.to(tl.float32) * d_after_t.to(tl.float32), 0)[None, :]
    at_end = tl.sum(written.to(tl.float32) * found, 0)[None, :] + tl.exp2(whole) * d_state
    found = tl.dot(tl.trans(tl.load(d_scores + squares)), read, found, input_precision=PRECISION)
    found = tl.dot(tl.trans(tl.load(d_system + squares)), erased, found, input_precision=PRECISION)
    d_sums += tl.where(rows[:, None] == C - 1, at_end, 0.0) - written.to(tl.float32) * found
    tl.store(d_g + share_offsets, tl.cumsum(d_sums, 0, reverse=True), mask=inside)
    found *= tl.exp2(-past)
    keys = tl.load(k, mask=inside, other=0.0).to(tl.float32)
    tl.store(d_k + share_offsets, (d_key + strength * found).to(kind), mask=inside)
    d_beta += part * plane.to(tl.int64) + gate_offsets
    tl.store(d_beta, tl.sum(keys * found, 1), mask=rows < tokens - n * C)


@triton.jit(do_not_specialize=RUN_TIME)
def steep_inputs_backward_kernel(
    q,
    k,
    beta,
    gates,
    errors,
    d_output,
    d_values,
    d_scores,
    d_system,
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
    NEAR: tl.constexpr,
    LEVELS: tl.constexpr,
    PRECISION: tl.constexpr,
):
    """What `inputs_backward_kernel` leaves: chunks whose channels decay so that they are taken in blocks.

    Inputs are loaded again for every block size: to keep them would spill registers.
    """
    PARTS: tl.constexpr = K // BK
    part = tl.program_id(0) % PARTS
    n = tl.program_id(0) // PARTS % chunks
    x = tl.program_id(0) // PARTS // chunks
    batch = x // value_heads
    value_head = x % value_heads
    head = value_head // (value_heads // heads)
    kind = q.dtype.element_ty

    rows = tl.arange(0, C)
    columns = part * BK + tl.arange(0, BK)
    value_columns = tl.arange(0, V)
    inside = (rows < tokens - n * C)[:, None]
    place = x.to(tl.int64) * chunks + n
    first = batch.to(tl.int64) * tokens + n * C
    gate_offsets = first * value_heads + value_head + rows * value_heads
    q += (first * heads + head) * K + rows[:, None] * (heads * K) + columns[None, :]
    k += (first * heads + head) * K + rows[:, None] * (heads * K) + columns[None, :]
    share_offsets = (first * value_heads + value_head) * K + rows[:, None] * (value_heads * K) + columns[None, :]
    value_offsets = (first * value_heads + value_head) * V + rows[:, None] * (value_heads * V) + value_columns[None, :]
    state_offsets = place * (K * V) + value_columns[:, None] * K + columns[None, :]
    gates += place * (C * K)
    near = smallest_blocks(gates + columns, K, C, NEAR, LEVELS)
    d_scores += place * (C * C)
    d_system += place * (C * C)
    strength = tl.load(beta + gate_offsets, mask=rows < tokens - n * C, other=0.0).to(tl.float32)[:, None]

    if near == LEVELS - 1:
        return
    gates += columns[None, :]
    before_t = tl.load(befores + state_offsets)
    rise = tl.exp2(tl.load(gates + rows[:, None] * K))
    d_out = tl.load(d_output + value_offsets, mask=inside, other=0.0)
    d_query = tl.dot(d_out, before_t, input_precision=PRECISION) * (rise * scale)
    d_sums = tl.load(q, mask=inside, other=0.0).to(tl.float32) * d_query
    d_value = tl.load(d_values + value_offsets, mask=inside, other=0.0)
    row = tl.dot(d_value, before_t, input_precision=PRECISION) * -rise
    d_sums += tl.load(k, mask=inside, other=0.0).to(tl.float32) * row
    for level in range(near, LEVELS):
        past = tl.load(gates + rows[:, None] * K) - tl.load(gates + border(rows, level)[:, None] * K)
        keys = tl.load(k, mask=inside, other=0.0).to(tl.float32)
        right = keys * strength * tl.exp2(tl.where(level == near, -past, -tl.abs(past)))
        right = right.to(kind)
        rise = tl.exp2(tl.where(level == near, past, -tl.abs(past)))
        paired = is_pair(rows[:, None], rows[None, :], level, near)
        square = tl.load(d_system + rows[:, None] * C + rows[None, :])
        found = tl.dot(tl.where(paired, square, 0.0), right, input_precision=PRECISION)
        row += rise * found
        d_sums += (keys * rise).to(kind).to(tl.float32) * found
        square = tl.load(d_scores + rows[:, None] * C + rows[None, :])
        found = tl.dot(tl.where(paired, square, 0.0), right, input_precision=PRECISION)
        d_query += rise * found
        d_sums += (tl.load(q, mask=inside, other=0.0).to(tl.float32) * rise).to(kind).to(tl.float32) * found
    # A token's score with itself knows no decay: among the products it would leave its rounding in dg.
    own = tl.load(d_scores + rows * (C + 1)).to(tl.float32)[:, None]
    d_query += own * strength * tl.load(k, mask=inside, other=0.0).to(tl.float32)
    tl.store(d_q + share_offsets, d_query.to(kind), mask=inside)

    whole = tl.load(gates + (C - 1) * K)
    d_after_t = tl.load(d_afters + state_offsets)
    before_t = tl.load(befores + state_offsets)
    error_t = tl.load(errors + place * (V * C) + value_columns[:, None] * C + rows[None, :])
    column = tl.dot(tl.trans(error_t), d_after_t, input_precision=PRECISION)
    column *= tl.exp2(whole - tl.load(gates + rows[:, None] * K))
    kept = tl.load(k, mask=inside, other=0.0).to(tl.float32) * strength * column
    d_sums -= kept
    # Of this product only the diagonal is wanted, <S, dS'> of each channel; both stay in shared memory for it.
    d_state = tl.dot(tl.trans(before_t), d_after_t, input_precision=PRECISION)
    d_state = tl.sum(tl.where(columns[:, None] == columns[None, :], d_state, 0.0), 0)[None, :]
    at_end = tl.sum(kept, 0)[None, :] + tl.exp2(whole) * d_state
    d_sums += tl.where(rows[:, None] == C - 1, at_end, 0.0)
    for level in range(near, LEVELS):
        past = tl.load(gates + rows[:, None] * K) - tl.load(gates + border(rows, level)[:, None] * K)
        rise = tl.exp2(tl.where(level == near, past, -tl.abs(past)))
        paired = is_pair(rows[None, :], rows[:, None], level, near)
        square = tl.load(d_scores + rows[None, :] * C + rows[:, None])
        right = (tl.load(q, mask=inside, other=0.0).to(tl.float32) * rise).to(kind)
        found = tl.dot(tl.where(paired, square, 0.0), right, input_precision=PRECISION)
        square = tl.load(d_system + rows[None, :] * C + rows[:, None])
        keys = tl.load(k, mask=inside, other=0.0).to(tl.float32)
        found = tl.dot(tl.where(paired, square, 0.0), (keys * rise).to(kind), found, input_precision=PRECISION)
        fall = tl.exp2(tl.where(level == near, -past, -tl.abs(past)))
        column += fall * found
        d_sums -= (keys * strength * fall).to(kind).to(tl.float32) * found
    tl.store(d_g + share_offsets, tl.cumsum(d_sums, 0, reverse=True), mask=inside)
    column += own * tl.load(q, mask=inside, other=0.0).to(tl.float32)
    keys = tl.load(k, mask=inside, other=0.0).to(tl.float32)
    d_beta += part * plane.to(tl.int64) + gate_offsets
    tl.store(d_beta, tl.sum(keys * column, 1), mask=rows < tokens - n * C)
    tl.store(d_k + share_offsets, (row + strength * column).to(kind), mask=inside)
