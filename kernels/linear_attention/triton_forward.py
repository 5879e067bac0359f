# mypy: ignore-errors
# (Triton's language is not Python's types: a jitted function sees pointers and tiles.)
"""Triton kernels of gated linear attention's forward pass.

In a chunk, with G the sums of the log decays up to each token and gl their sum: O = scale exp(G) Q S + A V,
A_ij = scale <q_i, exp(G_i - G_j) k_j> for j <= i, and S' = exp(gl) S + (exp(gl - G) K)^T V.

Axes: B batch, T tokens, H heads, X = B H, N chunks of C tokens, P segments of `span` chunks each. Tensors between the
kernels are padded to whole chunks. One decay a head: float32 `gates` [4, X, N C] are G (in log2), scale exp(G) and
exp(gl - G), the latter two zero behind the last token, and what G lost by rounding, which float32 inputs need. One
decay a key channel (VECTOR): `gates` [1, X, N C, K] is G, for float32 [2, ...] with what it lost; q and k are read as
`reads` = scale exp(G) q and `writes` = exp(gl - G) k, [X, N C, K], beside A, [X, N, C, C].
States, values and outputs are worked on transposed, value columns as rows (names in `_t`): so the state is the next
product's left operand and stays in registers. Transposed scores are computed from their operands: a transposed
accumulator as the left operand of a product is miscompiled on Hopper before Triton 3.7.1.
Head counts and lengths are run-time numbers and not specialised, so that no architecture compiles anything anew.
"""

import triton
import triton.language as tl

LOG2E = tl.constexpr(1.4426950408889634)
LOWEST_LOG_DECAY = tl.constexpr(-30.0)
"""A log decay below this counts as this: exp(-30) = 1e-13, and a sum that holds one is still exact to 4e-6."""
GENTLE = tl.constexpr(-92.0)
"""Log2 of the decay from the border of a block to its farthest token down to which the block is taken whole: its
inverse is far below the largest float32, 2^128."""
GATE_CHUNKS = tl.constexpr(8)

RUN_TIME = ["tokens", "heads", "chunks", "segments", "span", "plane"]


@triton.jit
def place_of(heads, segments, TILES: tl.constexpr):
    """Which tile of columns, segment (or chunk), x, sequence and head this program of X `segments` TILES works on."""
    tile = tl.program_id(0) % TILES
    segment = tl.program_id(0) // TILES % segments
    x = tl.program_id(0) // TILES // segments
    return tile, segment, x, x // heads, x % heads


@triton.jit(do_not_specialize=RUN_TIME)
def gates_kernel(g, gates, scale, tokens, heads, chunks, plane, C: tl.constexpr):
    """`gates` of GATE_CHUNKS chunks of one head with one decay. Grid: X (N / GATE_CHUNKS), rounded up."""
    groups = tl.cdiv(chunks, GATE_CHUNKS)
    x = tl.program_id(0) // groups
    batch = x // heads
    head = x % heads
    places = (tl.program_id(0) % groups * GATE_CHUNKS + tl.arange(0, GATE_CHUNKS))[:, None] * C
    places += tl.arange(0, C)[None, :]
    inside = places < tokens
    offsets = (batch.to(tl.int64) * tokens + places) * heads + head
    log_decay = tl.load(g + offsets, mask=inside, other=0.0).to(tl.float32)
    log_decay = tl.maximum(log_decay, LOWEST_LOG_DECAY) * LOG2E
    # On a grid of 2^-11 the sums, to 2771, are exact; those of what is left are small, and so are their roundings.
    coarse = tl.floor(log_decay * 2048.0 + 0.5) / 2048.0
    fine_sums = tl.cumsum(log_decay - coarse, 1)
    coarse_sums = tl.cumsum(coarse, 1)
    sums = coarse_sums + fine_sums
    kept = tl.sum(coarse, 1)[:, None] - coarse_sums + (tl.sum(log_decay - coarse, 1)[:, None] - fine_sums)
    gates += x.to(tl.int64) * chunks * C + places
    padded = places < chunks * C
    tl.store(gates, sums, mask=padded)
    tl.store(gates + plane, tl.where(inside, tl.exp2(sums) * scale, 0.0), mask=padded)
    tl.store(gates + 2 * plane.to(tl.int64), tl.where(inside, tl.exp2(kept), 0.0), mask=padded)
    tl.store(gates + 3 * plane.to(tl.int64), coarse_sums - sums + fine_sums, mask=padded)


@triton.jit
def border(rows, level):
    """The row up to which a block of 2^(level + 1) rows counts as its earlier half."""
    return (rows >> (level + 1) << (level + 1)) + (1 << level) - 1


@triton.jit
def is_across(i, j, level):
    """i is in the later and j in the earlier half of the same block of 2^(level + 1) rows."""
    return (i >> (level + 1) == j >> (level + 1)) & (i >> level > j >> level)


@triton.jit
def is_near(i, j, level):
    """j is before i in the same block of 2^(level + 1) rows."""
    return (i >> (level + 1) == j >> (level + 1)) & (i > j)


@triton.jit
def nearest_level(gates, columns, K: tl.constexpr, C: tl.constexpr, NEAR: tl.constexpr, TOP: tl.constexpr):
    """Log2 of the tokens that a block which is taken whole has to its border: all of a chunk of gentle decays."""
    middle = tl.load(gates + (C // 2 - 1) * K + columns)
    whole = tl.load(gates + (C - 1) * K + columns)
    return tl.where(tl.min(tl.minimum(middle, whole - middle), 0) >= GENTLE, TOP, NEAR)


@triton.jit
def is_paired(rows, level, near):
    """Whether two rows meet across the border of a block of `level` or, at the nearest level, within such a block."""
    half = rows >> level
    apart = half[:, None] ^ half[None, :]
    return (apart == 1) | ((apart == 0) & (level == near))


@triton.jit
def decay_from_border(gates, plane, rows, columns, level, K: tl.constexpr, FINE: tl.constexpr):
    """G of each row less that of the border of its block."""
    places = rows[:, None] * K + columns[None, :]
    borders = border(rows, level)[:, None] * K + columns[None, :]
    past = tl.load(gates + places) - tl.load(gates + borders)
    if FINE:
        past += tl.load(gates + plane + places) - tl.load(gates + plane + borders)
    return past


@triton.jit
def scaled(x, past, inside, level, near):
    """Rows of q or, with -past, of k, as they stand in a product of a level: float32 factor and product."""
    found = tl.load(x, mask=inside, other=0.0).to(tl.float32)
    factor = tl.exp2(tl.where(level == near, past, -tl.abs(past)))
    return factor, found * factor


@triton.jit(do_not_specialize=RUN_TIME)
def prepare_kernel(
    q,
    k,
    g,
    gates,
    reads,
    writes,
    scores,
    scale,
    lowest,
    tokens,
    heads,
    chunks,
    plane,
    K: tl.constexpr,
    C: tl.constexpr,
    NEAR: tl.constexpr,
    TOP: tl.constexpr,
    PRECISION: tl.constexpr,
):
    """One chunk of one head with a decay a key channel: G, `reads`, `writes` and A. Grid: X N.

    No exponent can overflow: the later half of a block sees the earlier one through their border b, exp(G_i - G_b)
    exp(G_b - G_j), in blocks of C rows, C / 2, and so on down to those that are taken whole. These are the chunk itself
    where it decays gently, else blocks of 2^(NEAR + 1) rows: they have at most 2^NEAR tokens to their border, and a log
    decay below `lowest` counts as that.
    """
    n = tl.program_id(0) % chunks
    x = tl.program_id(0) // chunks
    batch = x // heads
    kind = q.dtype.element_ty
    rows = tl.arange(0, C)
    columns = tl.arange(0, K)
    inside = (rows < tokens - n * C)[:, None]
    place = x.to(tl.int64) * chunks + n
    first = batch.to(tl.int64) * tokens + n * C
    offsets = (first * heads + x % heads) * K + rows[:, None] * (heads * K) + columns[None, :]
    padded = place * (C * K) + rows[:, None] * K + columns[None, :]

    log_decay = tl.load(g + offsets, mask=inside, other=0.0).to(tl.float32)
    queries = tl.load(q + offsets, mask=inside, other=0.0).to(tl.float32)
    keys = tl.load(k + offsets, mask=inside, other=0.0).to(tl.float32)
    log_decay = tl.maximum(log_decay, lowest) * LOG2E
    FINE: tl.constexpr = PRECISION == "tf32x3"
    if FINE:  # as in `gates_kernel`
        coarse = tl.floor(log_decay * 2048.0 + 0.5) / 2048.0
        coarse_sums = tl.cumsum(coarse, 0)
        rest = tl.cumsum(log_decay - coarse, 0)
        sums = coarse_sums + rest
        rest = coarse_sums - sums + rest
        tl.store(gates + plane + padded, rest)
    else:
        sums = tl.cumsum(log_decay, 0)
    tl.store(gates + padded, sums)
    tl.debug_barrier()  # borders are rows that other threads stored
    gates += place * (C * K)
    whole = tl.load(gates + (C - 1) * K + columns)[None, :]
    tl.store(reads + padded, (queries * tl.exp2(sums) * scale).to(kind))
    tl.store(writes + padded, (keys * tl.exp2(whole - sums)).to(kind))

    nearest = nearest_level(gates, columns, K, C, NEAR, TOP)
    borders = border(rows, nearest)[:, None] * K + columns[None, :]
    past = sums - tl.load(gates + borders)
    if FINE:
        past += rest - tl.load(gates + plane + borders)
    left = (queries * tl.exp2(past)).to(kind)
    right = (keys * tl.exp2(-past)).to(kind)
    near = tl.dot(left, tl.trans(right), input_precision=PRECISION)
    found = tl.where(is_near(rows[:, None], rows[None, :], nearest), near, 0.0)
    found += tl.where(rows[:, None] == rows[None, :], tl.sum(queries * keys, 1)[:, None], 0.0)
    for level in range(nearest + 1, TOP + 1):
        borders = border(rows, level)[:, None] * K + columns[None, :]
        past = sums - tl.load(gates + borders)
        if FINE:
            past += rest - tl.load(gates + plane + borders)
        factor = tl.exp2(-tl.abs(past))
        left = (queries * factor).to(kind)
        right = (keys * factor).to(kind)
        across = tl.dot(left, tl.trans(right), input_precision=PRECISION)
        found += tl.where(is_across(rows[:, None], rows[None, :], level), across, 0.0)
    tl.store(scores + place * (C * C) + rows[:, None] * C + rows[None, :], (found * scale).to(kind))


@triton.jit(do_not_specialize=RUN_TIME)
def output_kernel(
    q,
    k,
    v,
    scores,
    gates,
    starts,
    output,
    befores,
    last,
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
    STARTED: tl.constexpr,
    TRAIN: tl.constexpr,
    PRECISION: tl.constexpr,
):
    """A segment of one head, BV value columns: chunk after chunk, with the state in registers. Grid: X P (V / BV).

    For training it keeps the state before each chunk in `befores` [X, N, V, K].
    """
    tile, segment, x, batch, head = place_of(heads, segments, V // BV)
    kind = v.dtype
    FINE: tl.constexpr = PRECISION == "tf32x3"

    rows = tl.arange(0, C)
    key_columns = tl.arange(0, K)
    value_columns = tile * BV + tl.arange(0, BV)
    begin = segment * span
    end = tl.minimum(begin + span, chunks)
    output_offsets = rows[:, None] * (heads * V) + value_columns[None, :]
    output += ((batch.to(tl.int64) * tokens + begin * C) * heads + head) * V
    if VECTOR:
        gates += (x.to(tl.int64) * chunks + begin) * (C * K)
    else:
        gates += (x.to(tl.int64) * chunks + begin) * C

    if STARTED:
        starts += (x.to(tl.int64) * segments + segment) * (K * V)
        state_t = tl.load(starts + value_columns[:, None] * K + key_columns[None, :])
    else:
        state_t = tl.zeros((BV, K), tl.float32)
    for n in range(begin, end):
        place = x * chunks + n
        values_t = tl.trans(v.load([batch, n * C, head * V + tile * BV]).reshape(C, BV))
        low_t = state_t.to(kind)
        if TRAIN:
            befores.store([place * V + tile * BV, 0], low_t)
        if VECTOR:
            queries = q.load([place * C, 0])
            keys = k.load([place * C, 0])
            weights_t = tl.trans(scores.load([place * C, 0]))
            state_t *= tl.exp2(tl.load(gates + (C - 1) * K + key_columns))[None, :]
            found_t = tl.dot(low_t, tl.trans(queries), input_precision=PRECISION)
            written_t = values_t
            gates += C * K
        else:
            queries = q.load([batch, n * C, head * K]).reshape(C, K)
            keys = k.load([batch, n * C, head * K]).reshape(C, K)
            sums = tl.load(gates + rows)
            grown = tl.load(gates + plane + rows)[None, :]
            state_t *= tl.exp2(tl.load(gates + (C - 1)))
            found_t = tl.dot(low_t, tl.trans(queries), input_precision=PRECISION) * grown
            if FINE:  # Its three parts would wait in registers, but for the barrier.
                tl.debug_barrier()
                queries = q.load([batch, n * C, head * K]).reshape(C, K)
            past = sums[None, :] - sums[:, None]
            if FINE:
                rest = tl.load(gates + 3 * plane.to(tl.int64) + rows)
                past += rest[None, :] - rest[:, None]
            within = tl.exp2(tl.minimum(past, 0.0)) * scale
            within = tl.where(rows[:, None] <= rows[None, :], within, 0.0)
            weights_t = (tl.dot(keys, tl.trans(queries), input_precision=PRECISION) * within).to(kind)
            kept = tl.load(gates + 2 * plane.to(tl.int64) + rows)[None, :]
            written_t = (values_t.to(tl.float32) * kept).to(kind)
            gates += C
        found_t = tl.dot(values_t, weights_t, found_t, input_precision=PRECISION)
        state_t = tl.dot(written_t, keys, state_t, input_precision=PRECISION)
        inside = (rows < tokens - n * C)[:, None]
        tl.store(output + output_offsets, tl.trans(found_t.to(kind)), mask=inside)
        output += C * heads * V
    if segment == segments - 1:
        tl.store(last + x.to(tl.int64) * (K * V) + value_columns[:, None] + key_columns[None, :] * V, state_t)


@triton.jit(do_not_specialize=RUN_TIME)
def segment_kernel(
    k,
    v,
    gates,
    states,
    totals,
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
    REVERSE: tl.constexpr,
    PRECISION: tl.constexpr,
):
    """What a segment adds to the state, and `totals` [X, P, K], the log2 of what it leaves of the one it is given.

    Stored where the next segment starts. REVERSE: what it adds to the state's gradient, from q and the output's
    gradient in the places of k and v, stored where the segment before ends. Grid: X (P - 1) (V / BV).
    """
    TILES: tl.constexpr = V // BV
    tile = tl.program_id(0) % TILES
    x = tl.program_id(0) // TILES // (segments - 1)
    segment = tl.program_id(0) // TILES % (segments - 1)
    target = segment + 1
    if REVERSE:
        target = segment
        segment += 1
    batch = x // heads
    head = x % heads
    kind = v.dtype

    rows = tl.arange(0, C)
    key_columns = tl.arange(0, K)
    value_columns = tile * BV + tl.arange(0, BV)
    begin = segment * span
    end = tl.minimum(begin + span, chunks)
    state_t = tl.zeros((BV, K), tl.float32)
    total = tl.zeros((K,), tl.float32) if VECTOR else 0.0
    for i in range(end - begin):
        n = end - 1 - i if REVERSE else begin + i
        written_t = tl.trans(v.load([batch, n * C, head * V + tile * BV]).reshape(C, BV))
        if VECTOR:
            keys = k.load([(x * chunks + n) * C, 0])
            whole = tl.load(gates + ((x.to(tl.int64) * chunks + n) * C + (C - 1)) * K + key_columns)
            state_t *= tl.exp2(whole)[None, :]
        else:
            keys = k.load([batch, n * C, head * K]).reshape(C, K)
            here = gates + (x.to(tl.int64) * chunks + n) * C
            whole = tl.load(here + (C - 1))
            state_t *= tl.exp2(whole)
            factors = tl.load(here + (1 if REVERSE else 2) * plane.to(tl.int64) + rows)
            written_t = (written_t.to(tl.float32) * factors[None, :]).to(kind)
        total += whole
        state_t = tl.dot(written_t, keys, state_t, input_precision=PRECISION)
    states += (x.to(tl.int64) * segments + target) * (K * V)
    tl.store(states + value_columns[:, None] * K + key_columns[None, :], state_t)
    if tile == 0:
        tl.store(totals + (x.to(tl.int64) * segments + segment) * K + key_columns, tl.zeros((K,), tl.float32) + total)


@triton.jit(do_not_specialize=RUN_TIME)
def join_kernel(totals, states, segments, K: tl.constexpr, V: tl.constexpr, BV: tl.constexpr, REVERSE: tl.constexpr):
    """Joins segments in place: states[s + 1] += exp2(totals[s]) states[s]; reversed, states[s - 1] likewise.

    Grid: X (V / BV).
    """
    TILES: tl.constexpr = V // BV
    x = (tl.program_id(0) // TILES).to(tl.int64)
    key_columns = tl.arange(0, K)
    value_columns = tl.program_id(0) % TILES * BV + tl.arange(0, BV)
    first = x * segments
    step = 1
    if REVERSE:
        first += segments - 1
        step = -1
    states += first * (K * V) + value_columns[:, None] * K + key_columns[None, :]
    totals += first * K + key_columns
    state_t = tl.load(states)
    for s in tl.range(1, segments, num_stages=4):
        state_t = state_t * tl.exp2(tl.load(totals + (s - 1) * step * K))[None, :]
        state_t += tl.load(states + s * step * (K * V))
        tl.store(states + s * step * (K * V), state_t)
