# mypy: ignore-errors
# (Triton's language is not Python's types: a jitted function sees pointers and tiles.)
"""Triton kernel of rotary positions: one read and one write; the way back is the same with the other sign of sin."""

import triton
import triton.language as tl


@triton.jit(do_not_specialize=["tokens"])
def rotate_kernel(
    x,
    cos,
    sin,
    y,
    rows,
    tokens,
    heads,
    x_token,
    x_head,
    table_token,
    table_head,
    sign,
    HALF: tl.constexpr,
    S: tl.constexpr,
    R: tl.constexpr,
):
    """R heads of [B, T, H, 2 HALF], each half filled up to S. Grid: B T H / R."""
    row = tl.program_id(0).to(tl.int64) * R + tl.arange(0, R)[:, None]
    column = tl.arange(0, S)[None, :]
    inside = (row < rows) & (column < HALF)
    token = row // heads
    head = row % heads
    x += token * x_token + head * x_head + column
    table = token % tokens * table_token + head * table_head + column
    first = tl.load(x, mask=inside, other=0.0).to(tl.float32)
    second = tl.load(x + HALF, mask=inside, other=0.0).to(tl.float32)
    for half in tl.static_range(2):
        along = tl.load(cos + table + half * HALF, mask=inside, other=0.0).to(tl.float32)
        across = tl.load(sin + table + half * HALF, mask=inside, other=0.0).to(tl.float32) * sign
        turned = first * along + second * across if half == 0 else second * along + first * across
        tl.store(y + row * (2 * HALF) + half * HALF + column, turned.to(y.dtype.element_ty), mask=inside)
