# mypy: ignore-errors
# (Triton's language is not Python's types: a jitted function sees pointers and tiles.)
"""Triton kernels of the norms, each tensor read once and written once.

Every norm is n = x r with r = gain (sum x^2 + shift)^-1/2: root mean square has gain K^1/2 and shift K epsilon, unit
length has gain 1 and shift epsilon. With dn the gradient of n, dx = r (dn - n <dn, n> / gain^2). Gradients of weights
are summed over the rows of a program, [P, H, K] in float32; the sum over the programs is torch's. So they are the same
in every run.

Axes: N rows of H heads of K numbers; a row and a head of x, and of the gate, lie any distance apart, K is dense. P
programs a head. S is K filled up to a power of two, R the rows of a tile.
"""

import triton
import triton.language as tl


@triton.jit
def inverse(x, gain, shift):
    """r of every row, as a column."""
    return gain * tl.rsqrt(tl.sum(x * x, 1) + shift)[:, None]


@triton.jit
def silu_and_slope(x):
    """x s and its slope, s (1 + x (1 - s)), with s the sigmoid of x."""
    sigmoid = tl.sigmoid(x)
    return x * sigmoid, sigmoid * (1.0 + x * (1.0 - sigmoid))


@triton.jit
def rows_of(x, row, head, x_row, x_head, columns, inside):
    """Rows of one head, in float32; zero where not `inside`."""
    return tl.load(x + row * x_row + head * x_head + columns, mask=inside, other=0.0).to(tl.float32)


@triton.jit
def norm_kernel(
    x,
    weight,
    gate,
    y,
    gain,
    shift,
    rows,
    size,
    x_row,
    x_head,
    gate_row,
    gate_head,
    weight_head,
    S: tl.constexpr,
    R: tl.constexpr,
    WEIGHTED: tl.constexpr,
    GATED: tl.constexpr,
):
    """y = weight n SiLU(gate), [N, H, K]. Grid: N / R, H."""
    head = tl.program_id(1)
    columns = tl.arange(0, S)[None, :]
    row = tl.program_id(0).to(tl.int64) * R + tl.arange(0, R)[:, None]
    inside = (row < rows) & (columns < size)
    found = rows_of(x, row, head, x_row, x_head, columns, inside)
    found *= inverse(found, gain, shift)
    if WEIGHTED:
        found *= tl.load(weight + head * weight_head + columns, mask=columns < size, other=0.0).to(tl.float32)
    if GATED:
        found *= silu_and_slope(rows_of(gate, row, head, gate_row, gate_head, columns, inside))[0]
    place = (row * tl.num_programs(1) + head) * size + columns
    tl.store(y + place, found.to(y.dtype.element_ty), mask=inside)


@triton.jit
def norm_backward_kernel(
    x,
    weight,
    gate,
    d_y,
    d_x,
    d_gate,
    shares,
    gain,
    shift,
    rows,
    size,
    x_row,
    x_head,
    gate_row,
    gate_head,
    weight_head,
    S: tl.constexpr,
    R: tl.constexpr,
    WEIGHTED: tl.constexpr,
    GATED: tl.constexpr,
):
    """dx and dgate [N, H, K] and, of the rows of this program, the sum for dw. Grid: P, H."""
    head = tl.program_id(1)
    heads = tl.num_programs(1)
    columns = tl.arange(0, S)[None, :]
    is_column = columns < size
    if WEIGHTED:
        scale = tl.load(weight + head * weight_head + columns, mask=is_column, other=0.0).to(tl.float32)
        d_weight = tl.zeros((R, S), tl.float32)
    for tile in range(tl.program_id(0), tl.cdiv(rows, R), tl.num_programs(0)):
        row = tl.cast(tile, tl.int64) * R + tl.arange(0, R)[:, None]
        inside = (row < rows) & is_column
        place = (row * heads + head) * size + columns
        slope = tl.load(d_y + place, mask=inside, other=0.0).to(tl.float32)
        found = rows_of(x, row, head, x_row, x_head, columns, inside)
        if GATED:
            factor, steep = silu_and_slope(rows_of(gate, row, head, gate_row, gate_head, columns, inside))
        r = inverse(found, gain, shift)
        n = found * r
        if GATED:
            through = slope * n * steep
            if WEIGHTED:
                through *= scale
            tl.store(d_gate + place, through.to(d_gate.dtype.element_ty), mask=inside)
            slope *= factor
        if WEIGHTED:
            d_weight += slope * n
            slope *= scale
        along = tl.sum(slope * n, 1)[:, None] / (gain * gain)
        tl.store(d_x + place, (r * (slope - n * along)).to(d_x.dtype.element_ty), mask=inside)
    if WEIGHTED:
        place = (tl.program_id(0) * heads + head) * size + tl.arange(0, S)
        tl.store(shares + place, tl.sum(d_weight, 0), mask=tl.arange(0, S) < size)


@triton.jit
def mix_kernel(
    first,
    second,
    first_weight,
    second_weight,
    share,
    gate,
    y,
    gain,
    shift,
    rows,
    size,
    first_row,
    first_head,
    second_row,
    second_head,
    share_row,
    share_head,
    gate_row,
    gate_head,
    S: tl.constexpr,
    R: tl.constexpr,
    SHARED: tl.constexpr,
    GATED: tl.constexpr,
):
    """y = SiLU(gate) (share w1 n1 + (1 - share) w2 n2), [N, H, K]. Grid: N / R, H."""
    head = tl.program_id(1)
    columns = tl.arange(0, S)[None, :]
    is_column = columns < size
    row = tl.program_id(0).to(tl.int64) * R + tl.arange(0, R)[:, None]
    inside = (row < rows) & is_column
    one = rows_of(first, row, head, first_row, first_head, columns, inside)
    two = rows_of(second, row, head, second_row, second_head, columns, inside)
    # a column times a row would be laid out anew: three times as slow on a H200
    one *= inverse(one, gain, shift)
    two *= inverse(two, gain, shift)
    along = tl.arange(0, S)
    one *= tl.load(first_weight + along, mask=along < size, other=0.0).to(tl.float32)[None, :]
    two *= tl.load(second_weight + along, mask=along < size, other=0.0).to(tl.float32)[None, :]
    if SHARED:
        part = tl.load(share + row * share_row + head * share_head, mask=row < rows, other=0.0).to(tl.float32)
        found = two + part * (one - two)
    else:
        found = one + two
    if GATED:
        found *= silu_and_slope(rows_of(gate, row, head, gate_row, gate_head, columns, inside))[0]
    place = (row * tl.num_programs(1) + head) * size + columns
    tl.store(y + place, found.to(y.dtype.element_ty), mask=inside)


@triton.jit
def mix_backward_kernel(
    first,
    second,
    first_weight,
    second_weight,
    share,
    gate,
    d_y,
    d_first,
    d_second,
    d_share,
    d_gate,
    shares,
    gain,
    shift,
    rows,
    size,
    first_row,
    first_head,
    second_row,
    second_head,
    share_row,
    share_head,
    gate_row,
    gate_head,
    S: tl.constexpr,
    R: tl.constexpr,
    SHARED: tl.constexpr,
    GATED: tl.constexpr,
):
    """The gradients [N, H, K], that of the share [N, H], and two sums for the weights a program. Grid: P, H."""
    head = tl.program_id(1)
    heads = tl.num_programs(1)
    columns = tl.arange(0, S)[None, :]
    is_column = columns < size
    one_scale = tl.load(first_weight + columns, mask=is_column, other=0.0).to(tl.float32)
    two_scale = tl.load(second_weight + columns, mask=is_column, other=0.0).to(tl.float32)
    d_one_scale = tl.zeros((R, S), tl.float32)
    d_two_scale = tl.zeros((R, S), tl.float32)
    for tile in range(tl.program_id(0), tl.cdiv(rows, R), tl.num_programs(0)):
        row = tl.cast(tile, tl.int64) * R + tl.arange(0, R)[:, None]
        inside = (row < rows) & is_column
        place = (row * heads + head) * size + columns
        slope = tl.load(d_y + place, mask=inside, other=0.0).to(tl.float32)
        one = rows_of(first, row, head, first_row, first_head, columns, inside)
        two = rows_of(second, row, head, second_row, second_head, columns, inside)
        one_r = inverse(one, gain, shift)
        two_r = inverse(two, gain, shift)
        one *= one_r
        two *= two_r
        if SHARED:
            part = tl.load(share + row * share_row + head * share_head, mask=row < rows, other=0.0).to(tl.float32)
        if GATED:
            if SHARED:
                mixed = two_scale * two + part * (one_scale * one - two_scale * two)
            else:
                mixed = one_scale * one + two_scale * two
            factor, steep = silu_and_slope(rows_of(gate, row, head, gate_row, gate_head, columns, inside))
            tl.store(d_gate + place, (slope * mixed * steep).to(d_gate.dtype.element_ty), mask=inside)
            slope *= factor
        d_one = slope
        d_two = slope
        if SHARED:
            d_part = tl.sum(slope * (one_scale * one - two_scale * two), 1)[:, None]
            tl.store(d_share + row * heads + head, d_part.to(d_share.dtype.element_ty), mask=row < rows)
            d_one = slope * part
            d_two = slope * (1.0 - part)
        d_one_scale += d_one * one
        d_two_scale += d_two * two
        d_one *= one_scale
        d_two *= two_scale
        d_one = one_r * (d_one - one * (tl.sum(d_one * one, 1)[:, None] / (gain * gain)))
        d_two = two_r * (d_two - two * (tl.sum(d_two * two, 1)[:, None] / (gain * gain)))
        tl.store(d_first + place, d_one.to(d_first.dtype.element_ty), mask=inside)
        tl.store(d_second + place, d_two.to(d_second.dtype.element_ty), mask=inside)
    place = (tl.program_id(0) * heads + head) * 2 * size + tl.arange(0, S)
    tl.store(shares + place, tl.sum(d_one_scale, 0), mask=tl.arange(0, S) < size)
    tl.store(shares + place + size, tl.sum(d_two_scale, 0), mask=tl.arange(0, S) < size)
