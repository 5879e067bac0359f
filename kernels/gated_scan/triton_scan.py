# mypy: ignore-errors
# (Triton's language is not Python's types: a jitted function sees pointers and tiles.)
"""Triton kernels of the elementwise gated scan, h_t = exp(g_t) h_{t-1} + x_t, and of its backward pass.

A program works on a segment of one sequence and BD channels, a tile of LANES x RUN tokens at a time. RUN tokens in a
row lie in the registers of one thread, which scans them without talking to others: h -> a h + b is what they do to the
state before them. Those maps are composed over the lanes; then every thread knows its first state and scans again. The
next tile is loaded meanwhile, since what this costs is memory traffic.

Where there are few channels T is split into segments: what all but the last do to the state is found first (SUMMARY,
the same kernel), and each program composes what lies before its own segment.

Axes: B batch, T tokens, D = 8 `pieces` channels, P segments of `span` tokens each. Lengths and sizes are run-time
numbers and not specialised; pieces of 8 channels tell the compiler that wide loads are aligned.
"""

import triton
import triton.language as tl

RUN_TIME = ["tokens", "pieces", "segments", "span"]
PIECE = tl.constexpr(8)


@triton.jit
def composed(a, b, later_a, later_b):
    """First h -> a h + b, then h -> later_a h + later_b."""
    return later_a * a, later_a * b + later_b


@triton.jit
def composed_but_last(a, b, most_a, most_b, later_a, later_b, later_most_a, later_most_b):
    """`composed`, beside the same of all elements but the last, which a scan so makes exclusive."""
    return later_a * a, later_a * b + later_b, later_most_a * a, later_most_a * b + later_most_b


@triton.jit
def loaded(source, places, end, step, width, columns, is_column, RUN: tl.constexpr):
    """RUN tiles [LANES, BD]: the tokens `step` apart that follow each of `places`, zero from place `end` on."""
    tiles = ()
    for u in tl.static_range(RUN):
        inside = ((places + u) < end)[:, None] & is_column
        tiles += (tl.load(source + (places + u)[:, None] * step * width + columns, mask=inside, other=0.0),)
    return tiles


@triton.jit
def state_before(decays, ends, first, x, segment, segments, step, width, columns, is_column, MOST: tl.constexpr):
    """The state that a segment starts from: `first`, through the segments before it. They are numbered by `step`."""
    order = tl.arange(0, MOST)
    before = order < segment if step == 1 else order < segments - 1 - segment
    index = order if step == 1 else segments - 1 - order
    places = (x * segments + index)[:, None] * width + columns
    mask = before[:, None] & is_column
    a = tl.load(decays + places, mask=mask, other=1.0)
    b = tl.load(ends + places, mask=mask, other=0.0)
    a, b = tl.associative_scan((a, b), 0, composed)
    b += a * first[None, :]
    return tl.sum(tl.where((order == MOST - 1)[:, None], b, 0.0), 0)


@triton.jit(do_not_specialize=RUN_TIME)
def forward_kernel(
    x,
    g,
    initial,
    decays,
    ends,
    output,
    last,
    tokens,
    pieces,
    segments,
    span,
    BD: tl.constexpr,
    LANES: tl.constexpr,
    RUN: tl.constexpr,
    MOST: tl.constexpr,
    STARTED: tl.constexpr,
    SUMMARY: tl.constexpr,
):
    """A segment of BD channels of one sequence. Grid: B P (D / BD), SUMMARY B (P - 1) (D / BD), rounded up.

    SUMMARY stores what the segment does to the state, h -> a h + b, as `decays` and `ends` [B, P, D], nothing else.
    """
    width = pieces * PIECE
    tiles = tl.cdiv(width, BD)
    programs = segments - 1 if SUMMARY else segments
    columns = tl.program_id(0) % tiles * BD + tl.arange(0, BD)
    segment = tl.program_id(0) // tiles % programs
    batch = (tl.program_id(0) // tiles // programs).to(tl.int64)
    known = columns < width
    is_column = known[None, :]
    lanes = tl.arange(0, LANES)
    begin = segment * span
    end = tl.minimum(span, tokens - begin)
    at = (batch * tokens + begin) * width
    x += at
    g += at
    output += at

    state = tl.zeros((BD,), tl.float32)
    total = tl.full((BD,), 1.0, tl.float32)
    if not SUMMARY:
        if STARTED:
            state = tl.load(initial + batch * width + columns, mask=known, other=0.0)
        if MOST > 1:
            state = state_before(
                decays, ends, state, batch, segment, segments, 1, width, columns[None, :], is_column, MOST
            )
    places = lanes * RUN
    inputs = loaded(x, places, end, 1, width, columns[None, :], is_column, RUN)
    gates = loaded(g, places, end, 1, width, columns[None, :], is_column, RUN)
    for start in range(0, end, LANES * RUN):
        left = end - start
        x += LANES * RUN * width
        g += LANES * RUN * width
        next_inputs = loaded(x, places, left - LANES * RUN, 1, width, columns[None, :], is_column, RUN)
        next_gates = loaded(g, places, left - LANES * RUN, 1, width, columns[None, :], is_column, RUN)
        a = tl.full((LANES, BD), 1.0, tl.float32)
        b = tl.zeros((LANES, BD), tl.float32)
        for u in tl.static_range(RUN):
            decay = tl.exp(gates[u].to(tl.float32))
            a *= decay
            b = b * decay + inputs[u].to(tl.float32)
        b += tl.where((lanes == 0)[:, None], a * state[None, :], 0.0)
        if SUMMARY:
            a, b = tl.associative_scan((a, b), 0, composed)
            total *= tl.sum(tl.where((lanes == LANES - 1)[:, None], a, 0.0), 0)
            now = b
        else:
            ones = tl.full((LANES, BD), 1.0, tl.float32)
            _, _, _, most_b = tl.associative_scan((a, b, ones, ones * 0.0), 0, composed_but_last)
            now = tl.where((lanes == 0)[:, None], state[None, :], most_b)
            for u in tl.static_range(RUN):
                now = now * tl.exp(gates[u].to(tl.float32)) + inputs[u].to(tl.float32)
                inside = ((places + u) < left)[:, None] & is_column
                offsets = (places + u)[:, None] * width + columns[None, :]
                tl.store(output + offsets, now.to(output.dtype.element_ty), mask=inside)
            output += LANES * RUN * width
        state = tl.sum(tl.where((lanes == LANES - 1)[:, None], now, 0.0), 0)
        inputs = next_inputs
        gates = next_gates
    if SUMMARY:
        at = (batch * segments + segment) * width + columns
        tl.store(decays + at, total, mask=known)
        tl.store(ends + at, state, mask=known)
    elif segment == segments - 1:
        tl.store(last + batch * width + columns, state, mask=known)


@triton.jit(do_not_specialize=RUN_TIME)
def backward_kernel(
    d_output,
    g,
    output,
    initial,
    d_last,
    decays,
    ends,
    d_x,
    d_g,
    d_initial,
    tokens,
    pieces,
    segments,
    span,
    BD: tl.constexpr,
    LANES: tl.constexpr,
    RUN: tl.constexpr,
    MOST: tl.constexpr,
    STARTED: tl.constexpr,
    ENDED: tl.constexpr,
    SUMMARY: tl.constexpr,
):
    """A segment of BD channels of one sequence, from its last token to its first. Grid as of the forward kernel.

    The state is u_t = exp(g_t) dh_t, what dh_{t-1} gets: dh_t = do_t + u_{t+1} = dx_t and dg_t = h_{t-1} u_t.
    """
    width = pieces * PIECE
    tiles = tl.cdiv(width, BD)
    programs = segments - 1 if SUMMARY else segments
    columns = tl.program_id(0) % tiles * BD + tl.arange(0, BD)
    segment = tl.program_id(0) // tiles % programs
    if SUMMARY:
        segment += 1
    batch = (tl.program_id(0) // tiles // programs).to(tl.int64)
    known = columns < width
    is_column = known[None, :]
    lanes = tl.arange(0, LANES)
    begin = segment * span
    end = tl.minimum(span, tokens - begin)
    at = (batch * tokens + begin + end - 1) * width
    d_output += at
    g += at
    output += at - width
    d_x += at
    d_g += at

    state = tl.zeros((BD,), tl.float32)
    total = tl.full((BD,), 1.0, tl.float32)
    if not SUMMARY:
        if ENDED:
            state = tl.load(d_last + batch * width + columns, mask=known, other=0.0)
        if MOST > 1:
            state = state_before(
                decays, ends, state, batch, segment, segments, -1, width, columns[None, :], is_column, MOST
            )
    # the first token of all follows no output
    ends_before = end - 1 if begin == 0 else end
    places = lanes * RUN
    gradients = loaded(d_output, places, end, -1, width, columns[None, :], is_column, RUN)
    gates = loaded(g, places, end, -1, width, columns[None, :], is_column, RUN)
    for start in range(0, end, LANES * RUN):
        left = end - start
        d_output -= LANES * RUN * width
        g -= LANES * RUN * width
        next_gradients = loaded(d_output, places, left - LANES * RUN, -1, width, columns[None, :], is_column, RUN)
        next_gates = loaded(g, places, left - LANES * RUN, -1, width, columns[None, :], is_column, RUN)
        if not SUMMARY:
            befores = loaded(output, places, ends_before - start, -1, width, columns[None, :], is_column, RUN)
            output -= LANES * RUN * width
        a = tl.full((LANES, BD), 1.0, tl.float32)
        b = tl.zeros((LANES, BD), tl.float32)
        for u in tl.static_range(RUN):
            decay = tl.exp(gates[u].to(tl.float32))
            a *= decay
            b = (b + gradients[u].to(tl.float32)) * decay
        b += tl.where((lanes == 0)[:, None], a * state[None, :], 0.0)
        if SUMMARY:
            a, b = tl.associative_scan((a, b), 0, composed)
            total *= tl.sum(tl.where((lanes == LANES - 1)[:, None], a, 0.0), 0)
            now = b
        else:
            ones = tl.full((LANES, BD), 1.0, tl.float32)
            _, _, _, most_b = tl.associative_scan((a, b, ones, ones * 0.0), 0, composed_but_last)
            now = tl.where((lanes == 0)[:, None], state[None, :], most_b)
            if STARTED:
                first = tl.load(initial + batch * width + columns, mask=known, other=0.0)
            for u in tl.static_range(RUN):
                inside = ((places + u) < left)[:, None] & is_column
                offsets = -(places + u)[:, None] * width + columns[None, :]
                now += gradients[u].to(tl.float32)
                tl.store(d_x + offsets, now.to(d_x.dtype.element_ty), mask=inside)
                now *= tl.exp(gates[u].to(tl.float32))
                before = befores[u].to(tl.float32)
                if STARTED:
                    before = tl.where(((places + u) == ends_before - start)[:, None], first[None, :], before)
                tl.store(d_g + offsets, (before * now).to(d_g.dtype.element_ty), mask=inside)
            d_x -= LANES * RUN * width
            d_g -= LANES * RUN * width
        state = tl.sum(tl.where((lanes == LANES - 1)[:, None], now, 0.0), 0)
        gradients = next_gradients
        gates = next_gates
    if SUMMARY:
        at = (batch * segments + segment) * width + columns
        tl.store(decays + at, total, mask=known)
        tl.store(ends + at, state, mask=known)
    elif segment == 0:
        tl.store(d_initial + batch * width + columns, state, mask=known)


@triton.jit(do_not_specialize=["count"])
def step_kernel(x, g, state, output, new_state, count, BLOCK: tl.constexpr):
    """One token of BLOCK of the B D channels."""
    places = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    inside = places < count
    decay = tl.exp(tl.load(g + places, mask=inside, other=0.0).to(tl.float32))
    now = tl.load(state + places, mask=inside, other=0.0) * decay
    now += tl.load(x + places, mask=inside, other=0.0).to(tl.float32)
    tl.store(new_state + places, now, mask=inside)
    tl.store(output + places, now.to(output.dtype.element_ty), mask=inside)
