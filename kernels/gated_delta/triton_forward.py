# mypy: ignore-errors
# (Triton's language is not Python's types: a jitted function sees pointers and tiles.)
"""Triton kernels of the gated delta rule's forward pass.

In a chunk, with gc, gl and M as in `chunked`: E = A (V - exp(gc) K S) is what the state got wrong, where A = (I + L)^-1
and L = strict_lower(K K^T M) diag(beta); O = scale exp(gc) Q S + P E with P = scale tril(Q K^T M) diag(beta); and
S' = exp(gl) S + K^T (exp(gl - gc) beta E). (`chunked` solves for U = beta E; E spares a division in beta's gradient.)

Axes: B batch, T tokens, H heads of q and k, HV heads of v and of the state, X = B HV, N chunks of C tokens, G segments
of `span` chunks. Tensors between the kernels are padded to whole chunks: `gates` [4, X, N C], float32, are gc / log 2,
beta, exp(gc) and beta exp(gl - gc); A and P are [X, N, C, C], errors [X, N, V, C], states [X, N, V, K].
`lasting` [B, N, HV], if given, multiplies the last of the gates: 0 for a chunk whose writes end with it.
Without decay roundings stay in the state, and with beta to 2 they add up: to 1.1 % in bfloat16. So A and P are float16
then (in the kernels: FINE), P without `scale`, what they are multiplied with is float16 in units of its row, and what
is added to the state comes in two bfloat16 parts: 0.46 %.
States, errors and reads are worked on transposed, value columns as rows (names in `_t`): then each product's result is
the next one's left operand and stays in registers. Tiles are loaded and stored through descriptors (TMA on Hopper).
Head counts and lengths are run-time numbers and not specialised, so that no architecture compiles anything anew.
"""

import triton
import triton.language as tl

LOG2E = tl.constexpr(1.4426950408889634)
LOWEST_LOG_DECAY = tl.constexpr(-100.0)
"""As in `chunked`: a log decay below this counts as this."""

RUN_TIME = ["tokens", "heads", "value_heads", "chunks", "segments", "span", "plane"]


@triton.jit
def float16_units(largest):
    """A power of two near the largest number (of a row, or of all), and the factor that brings numbers to units of it.

    float16 rounds to an eighth of what bfloat16 rounds to, and in these units its small range does not matter.
    """
    exponent = tl.maximum(largest, 1e-30).to(tl.int32, bitcast=True) & 0x7F800000
    inverse = (0x7F000000 - exponent).to(tl.float32, bitcast=True)
    return exponent.to(tl.float32, bitcast=True), inverse


@triton.jit
def add_in_two_parts(sums, x, y):
    """sums + x y, x in y's dtype and what that rounds off."""
    high = x.to(y.dtype)
    sums = tl.dot(high, y, sums)
    return tl.dot((x - high.to(tl.float32)).to(y.dtype), y, sums)


@triton.jit(do_not_specialize=RUN_TIME)
def prepare_kernel(
    q,
    k,
    g,
    beta,
    lasting,
    inverse,
    scores,
    gates,
    scale,
    tokens,
    heads,
    value_heads,
    chunks,
    plane,
    K: tl.constexpr,
    C: tl.constexpr,
    GATED: tl.constexpr,
    PRECISION: tl.constexpr,
):
    """One chunk of one head: `gates`, P and A. Grid: X N; `plane` is X N C.

    Diagonal blocks of 16 are inverted by elimination, exact for any keys (a Neumann series over 64 tokens meets powers
    near 1e18 when keys repeat); with R = D^-1 (blocks below the diagonal), nilpotent of order 4, they are joined by
    (I + R)^-1 = (I - R)(I + R^2).
    """
    n = tl.program_id(0) % chunks
    x = tl.program_id(0) // chunks
    batch = x // value_heads
    value_head = x % value_heads
    head = value_head // (value_heads // heads)
    rows = tl.arange(0, C)
    inside = rows < tokens - n * C
    first = batch.to(tl.int64) * tokens + n * C
    gate_offsets = first * value_heads + value_head + rows * value_heads
    key_offsets = (first * heads + head) * K + rows[:, None] * (heads * K) + tl.arange(0, K)[None, :]
    padded = x.to(tl.int64) * chunks * C + n * C
    square_offsets = padded * C + rows[:, None] * C + rows[None, :]

    keys = tl.load(k + key_offsets, mask=inside[:, None], other=0.0)
    queries = tl.load(q + key_offsets, mask=inside[:, None], other=0.0)
    strength = tl.load(beta + gate_offsets, mask=inside, other=0.0).to(tl.float32)
    reads = tl.dot(queries, tl.trans(keys), input_precision=PRECISION)
    system = tl.dot(keys, tl.trans(keys), input_precision=PRECISION)
    factors = tl.broadcast_to(strength[None, :], (C, C))
    kept = strength
    gates += padded + rows
    tl.store(gates + plane, strength)
    if GATED:
        log_decay = tl.load(g + gate_offsets, mask=inside, other=0.0).to(tl.float32)
        log_decay = tl.maximum(log_decay, LOWEST_LOG_DECAY) * LOG2E
        sums = tl.cumsum(log_decay, 0)
        factors *= tl.exp2(tl.minimum(sums[:, None] - sums[None, :], 0.0))
        kept *= tl.exp2(tl.sum(log_decay, 0) - sums)
        tl.store(gates, sums)
        grown = tl.exp2(sums)
    else:
        grown = tl.full((C,), 1.0, tl.float32)
    if lasting is not None:
        kept *= tl.load(lasting + (batch * chunks + n) * value_heads + value_head).to(tl.float32)
    # Zero behind the last token: there the tiles of q, k and v hold another sequence's rows.
    tl.store(gates + 2 * plane.to(tl.int64), tl.where(inside, grown, 0.0))
    tl.store(gates + 3 * plane.to(tl.int64), kept)
    if scores.dtype.element_ty == tl.float16:  # FINE
        reads *= factors
        reads = tl.where(rows[:, None] >= rows[None, :], reads, 0.0)
    else:
        reads = tl.where(rows[:, None] >= rows[None, :], reads * factors * scale, 0.0)
    tl.store(scores + square_offsets, reads.to(scores.dtype.element_ty))
    system = tl.where(rows[:, None] > rows[None, :], system * factors, 0.0)

    BLOCKS: tl.constexpr = C // 16
    blocks = tl.arange(0, BLOCKS)
    small = tl.arange(0, 16)
    same = (blocks[:, None, None, None] == blocks[None, None, :, None]).broadcast_to(BLOCKS, 16, BLOCKS, 16)
    diagonal = tl.sum(tl.where(same, tl.reshape(system, (BLOCKS, 16, BLOCKS, 16)), 0.0), 2)
    eye = tl.where(small[None, :, None] == small[None, None, :], 1.0, 0.0)
    solved = tl.broadcast_to(eye, (BLOCKS, 16, 16))
    for j in tl.static_range(15):
        column = tl.sum(tl.where(small[None, None, :] == j, diagonal, 0.0), 2)
        row = tl.sum(tl.where(small[None, :, None] == j, solved, 0.0), 1)
        solved -= column[:, :, None] * row[:, None, :]
    spread = tl.reshape(tl.where(same, solved[:, :, None, :], 0.0), (C, C))

    # For bfloat16 results float16 is enough: it has tf32's mantissa, and with keys of length 1 and beta to 2 no entry
    # of these inverses is above 2.
    joined: tl.constexpr = tl.float16 if PRECISION == "tf32" else tl.float32
    below = tl.where(rows[:, None] // 16 > rows[None, :] // 16, system, 0.0).to(joined)
    nilpotent = tl.dot(spread.to(joined), below, input_precision=PRECISION)
    low = nilpotent.to(joined)
    square = tl.dot(low, low, input_precision=PRECISION)
    series = square - nilpotent - tl.dot(low, square.to(joined), input_precision=PRECISION)
    whole = spread + tl.dot(series.to(joined), spread.to(joined), input_precision=PRECISION)
    tl.store(inverse + square_offsets, whole.to(inverse.dtype.element_ty))


@triton.jit(do_not_specialize=RUN_TIME)
def output_kernel(
    q,
    k,
    v,
    inverse,
    scores,
    gates,
    starts,
    output,
    befores,
    errors,
    errors_rest,
    last,
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
    STARTED: tl.constexpr,
    TRAIN: tl.constexpr,
    PRECISION: tl.constexpr,
):
    """A segment of one head, BV value columns: chunk after chunk, with the state in registers. Grid: X G (V / BV).

    For training it keeps each chunk's E in `errors`, what rounding took from it in `errors_rest` (if given), and the
    state before it in `befores`.
    """
    TILES: tl.constexpr = V // BV
    tile = tl.program_id(0) % TILES
    segment = tl.program_id(0) // TILES % segments
    x = tl.program_id(0) // TILES // segments
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
    output_offsets = rows[:, None] * (value_heads * V) + value_columns[None, :]
    output += ((batch.to(tl.int64) * tokens + begin * C) * value_heads + value_head) * V
    gates += x.to(tl.int64) * chunks * C + begin * C

    if STARTED:
        state_t = tl.load(starts + (x.to(tl.int64) * segments + segment) * (K * V) + state_offsets)
    else:
        state_t = tl.zeros((BV, K), tl.float32)
    if GATED:
        whole_sum = tl.load(gates + (C - 1))
    for n in range(begin, end):
        place = x * chunks + n
        keys = k.load([batch, n * C, head * K]).reshape(C, K)
        queries = q.load([batch, n * C, head * K]).reshape(C, K)
        values = v.load([batch, n * C, value_head * V + tile * BV]).reshape(C, BV)
        solve = inverse.load([place * C, 0])
        weights = scores.load([place * C, 0])
        low_t = state_t.to(kind)
        if TRAIN:
            befores.store([place * V + tile * BV, 0], low_t)
        read_t = tl.dot(low_t, tl.trans(keys), input_precision=PRECISION)
        found_t = tl.dot(low_t, tl.trans(queries), input_precision=PRECISION) * scale
        if GATED:
            grown = tl.load(gates + 2 * plane.to(tl.int64) + rows)[None, :]
            read_t *= grown
            found_t *= grown
            state_t *= tl.exp2(whole_sum)
            whole_sum = tl.load(gates + (C + C - 1), mask=n + 1 < end, other=0.0)
        if FINE:
            wrong_t = tl.trans(values).to(tl.float32) - read_t
            units, inverse_units = float16_units(tl.max(tl.abs(wrong_t), 1, keep_dims=True))
            error_t = tl.dot((wrong_t * inverse_units).to(tl.float16), tl.trans(solve))
            found_t += tl.dot(error_t.to(tl.float16), tl.trans(weights)) * (units * scale)
            error_t *= units
        else:
            error_t = tl.dot(tl.trans(values), tl.trans(solve), input_precision=PRECISION)
            error_t = tl.dot((-read_t).to(kind), tl.trans(solve), error_t, input_precision=PRECISION)
        error_low_t = error_t.to(kind)
        if TRAIN:
            errors.store([place * V + tile * BV, 0], error_low_t)
            if errors_rest is not None:
                errors_rest.store([place * V + tile * BV, 0], (error_t - error_low_t.to(tl.float32)).to(kind))
        kept = tl.load(gates + 3 * plane.to(tl.int64) + rows)[None, :]
        if FINE:
            state_t = add_in_two_parts(state_t, error_t * kept, keys)
        else:
            state_t = tl.dot((error_t * kept).to(kind), keys, state_t, input_precision=PRECISION)
            found_t = tl.dot(error_low_t, tl.trans(weights), found_t, input_precision=PRECISION)
        inside = (rows < tokens - n * C)[:, None]
        tl.store(output + output_offsets, tl.trans(found_t.to(output.dtype.element_ty)), mask=inside)
        output += C * value_heads * V
        gates += C
    if segment == segments - 1:
        tl.store(last + x.to(tl.int64) * (K * V) + value_columns[:, None] + tl.arange(0, K)[None, :] * V, state_t)


@triton.jit(do_not_specialize=RUN_TIME)
def segment_kernel(
    k,
    v,
    inverse,
    gates,
    starts,
    transitions,
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
    PRECISION: tl.constexpr,
):
    """What a segment adds to the state and how it changes the state it is given. Grid: X G ((V + K) / BV).

    The state after a segment is linear in the state before: after = Z before + Y. V columns run the rule from a zero
    state (Y, stored where the next segment starts), K more run it from I without values (Z).
    """
    VALUE_TILES: tl.constexpr = V // BV
    TILES: tl.constexpr = (V + K) // BV
    tile = tl.program_id(0) % TILES
    segment = tl.program_id(0) // TILES % segments
    x = tl.program_id(0) // TILES // segments
    batch = x // value_heads
    value_head = x % value_heads
    head = value_head // (value_heads // heads)
    kind = k.dtype
    FINE: tl.constexpr = inverse.dtype == tl.float16
    is_transition = tile >= VALUE_TILES

    rows = tl.arange(0, C)
    key_columns = tl.arange(0, K)
    columns = tl.where(is_transition, tile - VALUE_TILES, tile) * BV + tl.arange(0, BV)
    begin = segment * span
    end = tl.minimum(begin + span, chunks)
    # The transition's columns read no values: their tile lies behind the last token, which loads zeros.
    behind = tl.where(is_transition, tokens, 0)
    gates += x.to(tl.int64) * chunks * C + begin * C

    state_t = tl.where(is_transition & (columns[:, None] == key_columns[None, :]), 1.0, 0.0)
    if GATED:
        whole_sum = tl.load(gates + (C - 1))
    for n in range(begin, end):
        keys = k.load([batch, n * C, head * K]).reshape(C, K)
        values = v.load([batch, n * C + behind, value_head * V + tile % VALUE_TILES * BV]).reshape(C, BV)
        solve = inverse.load([(x * chunks + n) * C, 0])
        read_t = tl.dot(state_t.to(kind), tl.trans(keys), input_precision=PRECISION)
        if GATED:
            read_t *= tl.load(gates + 2 * plane.to(tl.int64) + rows)[None, :]
            state_t *= tl.exp2(whole_sum)
            whole_sum = tl.load(gates + (C + C - 1), mask=n + 1 < end, other=0.0)
        if FINE:
            wrong_t = tl.trans(values).to(tl.float32) - read_t
            units, inverse_units = float16_units(tl.max(tl.abs(wrong_t), 1, keep_dims=True))
            error_t = tl.dot((wrong_t * inverse_units).to(tl.float16), tl.trans(solve)) * units
        else:
            error_t = tl.dot(tl.trans(values), tl.trans(solve), input_precision=PRECISION)
            error_t = tl.dot((-read_t).to(kind), tl.trans(solve), error_t, input_precision=PRECISION)
        kept = tl.load(gates + 3 * plane.to(tl.int64) + rows)[None, :]
        if FINE:
            state_t = add_in_two_parts(state_t, error_t * kept, keys)
        else:
            state_t = tl.dot((error_t * kept).to(kind), keys, state_t, input_precision=PRECISION)
        gates += C
    place = x.to(tl.int64) * segments + segment
    offsets = columns[:, None] * K + key_columns[None, :]
    if is_transition:
        tl.store(transitions + place * (K * K) + offsets, state_t)
    else:
        if segment < segments - 1:
            tl.store(starts + (place + 1) * (K * V) + offsets, state_t)


@triton.jit(do_not_specialize=RUN_TIME)
def join_kernel(
    transitions,
    states,
    segments,
    K: tl.constexpr,
    V: tl.constexpr,
    BV: tl.constexpr,
    REVERSE: tl.constexpr,
):
    """Joins segments in place: states[s + 1] += Z_s states[s], or reversed states[s - 1] += Z_s^T states[s].

    Both transposed in memory. Grid: X (V / BV).
    """
    TILES: tl.constexpr = V // BV
    tile = tl.program_id(0) % TILES
    x = (tl.program_id(0) // TILES).to(tl.int64)
    key_columns = tl.arange(0, K)
    value_columns = tile * BV + tl.arange(0, BV)
    first = 0
    step = 1
    if REVERSE:
        first = segments - 1
        step = -1
    state_tile = states + (x * segments + first) * (K * V) + value_columns[:, None] * K + key_columns[None, :]
    transition_tile = transitions + (x * segments + first) * (K * K)
    if REVERSE:
        transition_tile += key_columns[None, :] * K + key_columns[:, None]
    else:
        transition_tile += key_columns[:, None] * K + key_columns[None, :]
    state_t = tl.load(state_tile)
    for _ in range(segments - 1):
        state_tile += step * K * V
        # tf32x3: the state is handed on in float32, as inside a segment
        state_t = tl.dot(state_t, tl.load(transition_tile), tl.load(state_tile), input_precision="tf32x3")
        tl.store(state_tile, state_t)
        transition_tile += step * K * K
