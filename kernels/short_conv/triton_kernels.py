# mypy: ignore-errors
# (Triton's language is not Python's types: a jitted function sees pointers and tiles.)
"""Triton kernels of the short convolution with SiLU; the width W is a compile-time constant, 2 to 8.

With s_t = sum_i w_i x_{t - (W - 1) + i} and y_t = SiLU(s_t): ds = dy SiLU'(s), dx_u = sum_i w_i ds_{u + (W - 1) - i}
and dw_i = sum_t ds_t x_{t - (W - 1) + i}. Backwards s is found again, so nothing but x is kept. A thread walks along T
with its inputs and slopes in registers, and loads each number once. dw is summed over the runs of a program, [P, W, C]
in float32; the sum over the programs is torch's. So it is the same in every run.

Axes: B sequences of T tokens of C channels, which are dense; BC channels, R runs of L tokens of one sequence a tile.
"""

import triton
import triton.language as tl

RUN_TIME = ["tokens", "tiles"]


@triton.jit(do_not_specialize=RUN_TIME)
def forward_kernel(
    x,
    weight,
    y,
    tokens,
    channels,
    x_batch,
    x_token,
    W: tl.constexpr,
    BC: tl.constexpr,
    R: tl.constexpr,
    L: tl.constexpr,
):
    """y [B, T, C]. Grid: B times T / (R L), C / BC."""
    column = tl.program_id(1) * BC + tl.arange(0, BC)[None, :]
    is_column = column < channels
    a_sequence = tl.cdiv(tokens, R * L)
    batch = (tl.program_id(0) // a_sequence).to(tl.int64)
    t = tl.program_id(0) % a_sequence * (R * L) + tl.arange(0, R)[:, None] * L
    x += batch * x_batch + column
    xs = ()
    for s in tl.static_range(L + W - 1):
        past = t + (s - W + 1)
        xs += (tl.load(x + past * x_token, mask=(past >= 0) & (past < tokens) & is_column, other=0.0),)
    taps = ()
    for i in tl.static_range(W):
        taps += (tl.load(weight + i * channels + column, mask=is_column, other=0.0).to(tl.float32),)
    y += (batch * tokens + t) * channels + column
    for s in tl.static_range(L):
        total = taps[0] * xs[s].to(tl.float32)
        for i in tl.static_range(1, W):
            total += taps[i] * xs[s + i].to(tl.float32)
        result = (total * tl.sigmoid(total)).to(y.dtype.element_ty)
        tl.store(y + s * channels, result, mask=(t + s < tokens) & is_column)


@triton.jit(do_not_specialize=RUN_TIME)
def backward_kernel(
    x,
    weight,
    d_y,
    d_x,
    shares,
    tokens,
    tiles,
    channels,
    x_batch,
    x_token,
    W: tl.constexpr,
    BC: tl.constexpr,
    R: tl.constexpr,
    L: tl.constexpr,
):
    """dx [B, T, C] and, of the runs of this program, the sum for dw. Grid: P, C / BC; `tiles` is B times T / (R L)."""
    column = tl.program_id(1) * BC + tl.arange(0, BC)[None, :]
    is_column = column < channels
    taps = ()
    d_taps = ()
    for i in tl.static_range(W):
        taps += (tl.load(weight + i * channels + column, mask=is_column, other=0.0).to(tl.float32),)
        d_taps += (tl.zeros((R, BC), tl.float32),)
    a_sequence = tl.cdiv(tokens, R * L)
    for tile in range(tl.program_id(0), tiles, tl.num_programs(0)):
        batch = tl.cast(tile // a_sequence, tl.int64)
        t = tile % a_sequence * (R * L) + tl.arange(0, R)[:, None] * L
        inputs = x + batch * x_batch + column
        place = (batch * tokens + t) * channels + column
        xs = ()
        for s in tl.static_range(L + 2 * (W - 1)):
            past = t + (s - W + 1)
            seen = (past >= 0) & (past < tokens) & is_column
            xs += (tl.load(inputs + past * x_token, mask=seen, other=0.0),)
        slopes = ()
        for s in tl.static_range(L + W - 1):
            seen = (t + s < tokens) & is_column
            slopes += (tl.load(d_y + place + s * channels, mask=seen, other=0.0),)
        ds = ()
        for s in tl.static_range(L + W - 1):
            total = taps[0] * xs[s].to(tl.float32)
            for i in tl.static_range(1, W):
                total += taps[i] * xs[s + i].to(tl.float32)
            sigmoid = tl.sigmoid(total)
            ds += (slopes[s].to(tl.float32) * sigmoid * (1.0 + total * (1.0 - sigmoid)),)
            if s < L:
                sums = ()
                for i in tl.static_range(W):
                    sums += (d_taps[i] + ds[s] * xs[s + i].to(tl.float32),)
                d_taps = sums
            if s >= W - 1:
                found = taps[W - 1] * ds[s - W + 1]
                for i in tl.static_range(W - 1):
                    found += taps[i] * ds[s - i]
                u = s - W + 1
                seen = (t + u < tokens) & is_column
                tl.store(d_x + place + u * channels, found.to(d_x.dtype.element_ty), mask=seen)
    for i in tl.static_range(W):
        place = (tl.program_id(0) * W + i) * channels + tl.program_id(1) * BC + tl.arange(0, BC)
        inside = tl.program_id(1) * BC + tl.arange(0, BC) < channels
        tl.store(shares + place, tl.sum(d_taps[i], 0), mask=inside)


@triton.jit
def step_kernel(x, weight, tail, y, new_tail, channels, x_batch, W: tl.constexpr, BC: tl.constexpr):
    """One token: y [B, C], and the tail [B, W - 1, C] with x in the place of its oldest. Grid: C / BC, B."""
    batch = tl.program_id(1).to(tl.int64)
    column = tl.program_id(0) * BC + tl.arange(0, BC)
    is_column = column < channels
    now = tl.load(x + batch * x_batch + column, mask=is_column, other=0.0)
    total = now.to(tl.float32) * tl.load(weight + (W - 1) * channels + column, mask=is_column, other=0.0).to(tl.float32)
    old = batch * (W - 1) * channels + column
    for i in tl.static_range(W - 1):
        past = tl.load(tail + old + i * channels, mask=is_column, other=0.0)
        tap = tl.load(weight + i * channels + column, mask=is_column, other=0.0).to(tl.float32)
        total += tap * past.to(tl.float32)
        if i > 0:
            tl.store(new_tail + old + (i - 1) * channels, past, mask=is_column)
    tl.store(new_tail + old + (W - 2) * channels, now.to(new_tail.dtype.element_ty), mask=is_column)
    tl.store(y + batch * channels + column, (total * tl.sigmoid(total)).to(y.dtype.element_ty), mask=is_column)
