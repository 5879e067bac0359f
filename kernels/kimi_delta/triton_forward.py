# mypy: ignore-errors
# (Triton's language is not Python's types: a jitted function sees pointers and tiles.)
"""Triton kernels of the forward pass of the delta rule with a decay a key channel.

In a chunk, with G the sums of the log decays up to each token, gl their whole, W = beta K and the pairs
<X, W>_ij = sum_c x_ic exp(G_ic - G_jc) w_jc for j <= i: what the state got wrong is E = A (V - exp(G) K S) with
A = (I + strict_lower(<K, W>))^-1; then O = scale exp(G) Q S + P E with P = <scale Q, W>, and
S' = exp(gl) S + (exp(gl - G) W)^T E.

Axes: B batch, T tokens, H heads of q and k, HV heads of v and of the state, X = B HV, N chunks of C tokens, segments of
`span` chunks. Tensors between the kernels are padded to whole chunks, with zeros behind the last token: `gates`
[X, N C, K], float32, are G / log 2; `reads` = scale exp(G) Q, `erases` = -A exp(G) K and `writes` = exp(gl - G) W are
[X, N C, K]; A and P [X, N, C, C]; `errors` [X, N, V, C] are E = A V + erases S; states [X, N, V, K].
What depends on the state is four products a chunk; A V is a fifth, for kept in bfloat16 it would be rounded twice.
States, errors and reads are worked on transposed, value columns as rows (names in `_t`): then each product's result is
the next one's left operand and stays in registers. Tiles are loaded and stored through descriptors (TMA on Hopper).
Head counts and lengths are run-time numbers and not specialised, so that no architecture compiles anything anew.
"""

import triton
import triton.language as tl

LOG2E = tl.constexpr(1.4426950408889634)
REACH = tl.constexpr(60.0)
"""2^60: what may stand on either side of a border, so that a product of two still is a float32."""

RUN_TIME = ["tokens", "heads", "value_heads", "chunks", "segments", "span", "plane"]


@triton.jit
def border(rows, level):
    """The row up to which a block of 2^(level + 1) rows counts as its earlier half."""
    return (rows >> (level + 1) << (level + 1)) + (1 << level) - 1


@triton.jit
def is_pair(i, j, level, near):
    """j is before i in the same block of 2^(level + 1) rows and, above the smallest blocks, in its earlier half."""
    return (j >= i >> (level + 1) << (level + 1)) & (j < tl.where(level == near, i, i >> level << level))


@triton.jit
def smallest_blocks(gates, K: tl.constexpr, C: tl.constexpr, NEAR: tl.constexpr, LEVELS: tl.constexpr):
    """The highest level on which no half of a block decays by more than REACH; such blocks can be taken whole.

    `gates` points at the channels of the chunk's first row.
    """
    near = NEAR
    for level in tl.static_range(NEAR + 1, LEVELS):
        begin = tl.load(gates) * 0.0
        reach = begin
        for half in tl.static_range(C >> level):
            end = tl.load(gates + (((half + 1) << level) - 1) * K)
            reach = tl.maximum(reach, begin - end)
            begin = end
        near = tl.where(tl.max(reach, 0) <= REACH, level, near)
    return near


@triton.jit
def inverse_of(system, C: tl.constexpr, PRECISION: tl.constexpr):
    """(I + system)^-1 of a strictly lower triangle.

    Diagonal blocks of 16 are inverted by elimination, exact for any keys (a Neumann series over 64 tokens meets powers
    near 1e18 when keys repeat); with R = D^-1 (blocks below the diagonal), nilpotent of order 4, they are joined by
    (I + R)^-1 = (I - R)(I + R^2).
    """
    rows = tl.arange(0, C)
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
    return spread + tl.dot(series.to(joined), spread.to(joined), input_precision=PRECISION)


@triton.jit(do_not_specialize=RUN_TIME)
def pairs_kernel(
    q,
    k,
    g,
    beta,
    gates,
    reads,
    erases,
    writes,
    scores,
    system,
    scale,
    lowest,
    tokens,
    heads,
    value_heads,
    chunks,
    K: tl.constexpr,
    BK: tl.constexpr,
    C: tl.constexpr,
    PRECISION: tl.constexpr,
):
    """One chunk of one head, BK key channels at a time: G, `reads`, `writes`, exp(G) K, P and <K, W>. Grid: X N.

    The pairs are taken whole, through the border in the middle of the chunk; where that cannot be,
    `steep_pairs_kernel` finds them anew. A log decay below `lowest` counts as that.
    """
    n = tl.program_id(0) % chunks
    x = tl.program_id(0) // chunks
    batch = x // value_heads
    value_head = x % value_heads
    head = value_head // (value_heads // heads)
    kind = q.dtype.element_ty
    rows = tl.arange(0, C)
    columns = tl.arange(0, BK)
    inside = (rows < tokens - n * C)[:, None]
    place = x.to(tl.int64) * chunks + n
    first = batch.to(tl.int64) * tokens + n * C
    offsets = (first * heads + head) * K + rows[:, None] * (heads * K) + columns[None, :]
    decay_offsets = (first * value_heads + value_head) * K + rows[:, None] * (value_heads * K) + columns[None, :]
    gate_offsets = first * value_heads + value_head + rows * value_heads
    padded = place * (C * K) + rows[:, None] * K + columns[None, :]
    square_offsets = place * (C * C) + rows[:, None] * C + rows[None, :]
    gates += place * (C * K)
    strength = tl.load(beta + gate_offsets, mask=rows < tokens - n * C, other=0.0).to(tl.float32)[:, None]

    read = tl.zeros((C, C), tl.float32)
    overlap = tl.zeros((C, C), tl.float32)
    for part in range(0, K, BK):
        log_decay = tl.load(g + decay_offsets + part, mask=inside, other=0.0).to(tl.float32)
        sums = tl.cumsum(tl.maximum(log_decay, lowest) * LOG2E, 0)
        tl.store(gates + part + rows[:, None] * K + columns[None, :], sums)
        tl.debug_barrier()  # the rows that are read next are stored by other threads
        middle = tl.load(gates + part + (C // 2 - 1) * K + columns)[None, :]
        whole = tl.load(gates + part + (C - 1) * K + columns)[None, :]
        past = tl.minimum(tl.maximum(sums - middle, -REACH), REACH)
        grown = tl.exp2(sums)
        rise = tl.exp2(past)
        queries = tl.load(q + offsets + part, mask=inside, other=0.0).to(tl.float32)
        tl.store(reads + padded + part, (queries * (grown * scale)).to(kind))
        queries = (queries * rise).to(kind)
        keys = tl.load(k + offsets + part, mask=inside, other=0.0).to(tl.float32)
        tl.store(erases + padded + part, (keys * grown).to(kind))
        written = keys * strength
        tl.store(writes + padded + part, (written * tl.exp2(whole - sums)).to(kind))
        right = tl.trans((written * tl.exp2(-past)).to(kind))
        read = tl.dot(queries, right, read, input_precision=PRECISION)
        overlap = tl.dot((keys * rise).to(kind), right, overlap, input_precision=PRECISION)
    read = tl.where(rows[:, None] >= rows[None, :], read * scale, 0.0)
    tl.store(scores + square_offsets, read.to(kind))
    overlap = tl.where(rows[:, None] > rows[None, :], overlap, 0.0)
    tl.store(system + square_offsets, overlap.to(system.dtype.element_ty))


@triton.jit(do_not_specialize=RUN_TIME)
def steep_pairs_kernel(
    q,
    k,
    beta,
    gates,
    scores,
    system,
    scale,
    tokens,
    heads,
    value_heads,
    chunks,
    K: tl.constexpr,
    BK: tl.constexpr,
    C: tl.constexpr,
    NEAR: tl.constexpr,
    LEVELS: tl.constexpr,
    PRECISION: tl.constexpr,
):
    """P and <K, W> of the chunks that `pairs_kernel` cannot take whole. Grid: X N.

    No exponent can overflow: the later half of a block sees the earlier one through their border b, exp(G_i - G_b)
    exp(G_b - G_j), in blocks of C rows, C / 2, and so on down to the first that can be taken whole, at the latest of
    2^(NEAR + 1) rows: they have at most 2^NEAR tokens to their border.
    """
    n = tl.program_id(0) % chunks
    x = tl.program_id(0) // chunks
    batch = x // value_heads
    value_head = x % value_heads
    place = x.to(tl.int64) * chunks + n
    gates += place * (C * K)
    near = smallest_blocks(gates + tl.arange(0, K), K, C, NEAR, LEVELS)
    if near == LEVELS - 1:
        return
    kind = q.dtype.element_ty
    rows = tl.arange(0, C)
    columns = tl.arange(0, BK)
    inside = (rows < tokens - n * C)[:, None]
    first = batch.to(tl.int64) * tokens + n * C
    offsets = (first * heads + value_head // (value_heads // heads)) * K
    offsets += rows[:, None] * (heads * K) + columns[None, :]
    gate_offsets = first * value_heads + value_head + rows * value_heads
    strength = tl.load(beta + gate_offsets, mask=rows < tokens - n * C, other=0.0).to(tl.float32)[:, None]
    own = tl.zeros((C,), tl.float32)
    read = tl.zeros((C, C), tl.float32)
    overlap = tl.zeros((C, C), tl.float32)
    for part in range(0, K, BK):
        queries = tl.load(q + offsets + part, mask=inside, other=0.0).to(tl.float32)
        keys = tl.load(k + offsets + part, mask=inside, other=0.0).to(tl.float32)
        sums = tl.load(gates + part + rows[:, None] * K + columns[None, :])
        own += tl.sum(queries * keys * strength, 1)
        for level in range(near, LEVELS):
            past = sums - tl.load(gates + part + border(rows, level)[:, None] * K + columns[None, :])
            rise = tl.exp2(tl.where(level == near, past, -tl.abs(past)))
            right = keys * strength * tl.exp2(tl.where(level == near, -past, -tl.abs(past)))
            right = tl.trans(right.to(kind))
            paired = is_pair(rows[:, None], rows[None, :], level, near)
            found = tl.dot((keys * rise).to(kind), right, input_precision=PRECISION)
            overlap += tl.where(paired, found, 0.0)
            found = tl.dot((queries * rise).to(kind), right, input_precision=PRECISION)
            read += tl.where(paired, found, 0.0)
    read += tl.where(rows[:, None] == rows[None, :], own[:, None], 0.0)
    square_offsets = place * (C * C) + rows[:, None] * C + rows[None, :]
    tl.store(scores + square_offsets, (read * scale).to(kind))
    tl.store(system + square_offsets, overlap.to(system.dtype.element_ty))


@triton.jit
def solve_kernel(
    system,
    erases,
    inverse,
    K: tl.constexpr,
    BK: tl.constexpr,
    C: tl.constexpr,
    PRECISION: tl.constexpr,
):
    """One chunk of one head: A, and -A exp(G) K in the place of exp(G) K, BK key channels at a time. Grid: X N."""
    place = tl.program_id(0).to(tl.int64)
    kind = erases.dtype.element_ty
    rows = tl.arange(0, C)
    square_offsets = place * (C * C) + rows[:, None] * C + rows[None, :]
    overlap = tl.load(system + square_offsets)
    if PRECISION == "tf32":
        # Times one, exact: in the layout of a product's result the elimination has a third of the instructions.
        overlap = tl.dot(tl.where(rows[:, None] == rows[None, :], 1.0, 0.0).to(overlap.dtype), overlap)
    solve = inverse_of(overlap.to(tl.float32), C, PRECISION).to(kind)
    tl.store(inverse + square_offsets, solve)
    erases += place * (C * K) + rows[:, None] * K + tl.arange(0, BK)[None, :]
    for part in range(0, K, BK):
        erased = tl.dot(solve, tl.load(erases + part), input_precision=PRECISION)
        tl.store(erases + part, (-erased).to(kind))


@triton.jit(do_not_specialize=RUN_TIME)
def output_kernel(
    reads,
    erases,
    writes,
    v,
    inverse,
    scores,
    errors,
    gates,
    starts,
    output,
    befores,
    last,
    tokens,
    value_heads,
    chunks,
    segments,
    span,
    K: tl.constexpr,
    V: tl.constexpr,
    BV: tl.constexpr,
    C: tl.constexpr,
    STARTED: tl.constexpr,
    TRAIN: tl.constexpr,
    PRECISION: tl.constexpr,
):
    """A segment of one head, BV value columns: chunk after chunk, with the state in registers.

    For training it keeps each chunk's E in `errors` and the state before it in `befores`.
    Grid: X (segments) (V / BV).
    """
    TILES: tl.constexpr = V // BV
    tile = tl.program_id(0) % TILES
    segment = tl.program_id(0) // TILES % segments
    x = tl.program_id(0) // TILES // segments
    batch = x // value_heads
    value_head = x % value_heads
    kind = reads.dtype

    rows = tl.arange(0, C)
    key_columns = tl.arange(0, K)
    value_columns = tile * BV + tl.arange(0, BV)
    begin = segment * span
    end = tl.minimum(begin + span, chunks)
    output_offsets = rows[:, None] * (value_heads * V) + value_columns[None, :]
    output += ((batch.to(tl.int64) * tokens + begin * C) * value_heads + value_head) * V
    gates += (x.to(tl.int64) * chunks + begin) * (C * K) + (C - 1) * K + key_columns

    if STARTED:
        starts += (x.to(tl.int64) * segments + segment) * (K * V)
        state_t = tl.load(starts + value_columns[:, None] * K + key_columns[None, :])
    else:
        state_t = tl.zeros((BV, K), tl.float32)
    for n in range(begin, end):
        place = x * chunks + n
        queries = reads.load([place * C, 0])
        erased = erases.load([place * C, 0])
        keys = writes.load([place * C, 0])
        weights = scores.load([place * C, 0])
        values = v.load([batch, n * C, value_head * V + tile * BV]).reshape(C, BV)
        solve = inverse.load([place * C, 0])
        left = tl.exp2(tl.load(gates))[None, :]
        low_t = state_t.to(kind)
        if TRAIN:
            befores.store([place * V + tile * BV, 0], low_t)
        error_t = tl.dot(tl.trans(values), tl.trans(solve), input_precision=PRECISION)
        error_t = tl.dot(low_t, tl.trans(erased), error_t, input_precision=PRECISION).to(kind)
        if TRAIN:
            errors.store([place * V + tile * BV, 0], error_t)
        found_t = tl.dot(low_t, tl.trans(queries), input_precision=PRECISION)
        state_t = tl.dot(error_t, keys, state_t * left, input_precision=PRECISION)
        found_t = tl.dot(error_t, tl.trans(weights), found_t, input_precision=PRECISION)
        inside = (rows < tokens - n * C)[:, None]
        tl.store(output + output_offsets, tl.trans(found_t.to(kind)), mask=inside)
        output += C * value_heads * V
        gates += C * K
    if segment == segments - 1:
        tl.store(last + x.to(tl.int64) * (K * V) + value_columns[:, None] + key_columns[None, :] * V, state_t)


@triton.jit(do_not_specialize=RUN_TIME)
def segment_kernel(
    erases,
    writes,
    v,
    inverse,
    gates,
    starts,
    transitions,
    tokens,
    value_heads,
    chunks,
    segments,
    span,
    K: tl.constexpr,
    V: tl.constexpr,
    BV: tl.constexpr,
    C: tl.constexpr,
    PRECISION: tl.constexpr,
):
    """What a segment adds to the state and how it changes the state it is given. Grid: X (segments) ((V + K) / BV).

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
    kind = erases.dtype
    is_transition = tile >= VALUE_TILES

    key_columns = tl.arange(0, K)
    columns = tl.where(is_transition, tile - VALUE_TILES, tile) * BV + tl.arange(0, BV)
    begin = segment * span
    end = tl.minimum(begin + span, chunks)
    # The transition's columns read no values: their tile lies behind the last token, which loads zeros.
    behind = tl.where(is_transition, tokens, 0)
    gates += (x.to(tl.int64) * chunks + begin) * (C * K) + (C - 1) * K + key_columns
    state_t = tl.where(is_transition & (columns[:, None] == key_columns[None, :]), 1.0, 0.0)
    for n in range(begin, end):
        place = x * chunks + n
        erased = erases.load([place * C, 0])
        keys = writes.load([place * C, 0])
        values = v.load([batch, n * C + behind, value_head * V + tile % VALUE_TILES * BV]).reshape(C, BV)
        solve = inverse.load([place * C, 0])
        left = tl.exp2(tl.load(gates))[None, :]
        error_t = tl.dot(tl.trans(values), tl.trans(solve), input_precision=PRECISION)
        error_t = tl.dot(state_t.to(kind), tl.trans(erased), error_t, input_precision=PRECISION).to(kind)
        state_t = tl.dot(error_t, keys, state_t * left, input_precision=PRECISION)
        gates += C * K
    at = x.to(tl.int64) * segments + segment
    offsets = columns[:, None] * K + key_columns[None, :]
    if is_transition:
        tl.store(transitions + at * (K * K) + offsets, state_t)
    else:
        if segment < segments - 1:
            tl.store(starts + (at + 1) * (K * V) + offsets, state_t)
