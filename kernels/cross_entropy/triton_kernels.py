# mypy: ignore-errors
# (Triton's language is not Python's types: a jitted function sees pointers and tiles.)
"""Triton kernels of the cross entropy of logits [N, V]: read once forwards, read and overwritten once backwards.

With l the logits of a row and t its target: loss = log sum exp(l) - l_t, and its gradient is softmax(l) - onehot(t).
Sums are float32 whatever the dtype of the logits. BV columns at a time.
"""

import triton
import triton.language as tl

LOWEST = tl.constexpr(-1e30)
"""In the place of logits behind the last; finite, so that differences are numbers, and exp(LOWEST - top) is 0."""


@triton.jit
def forward_kernel(logits, targets, losses, sums, row, columns, BV: tl.constexpr):
    """Loss and log of the sum of exponentials of one row. Grid: N."""
    n = tl.program_id(0).to(tl.int64)
    logits += n * row
    column = tl.arange(0, BV)
    top = LOWEST
    total = 0.0
    for first in range(0, columns, BV):
        found = tl.load(logits + first + column, mask=first + column < columns, other=LOWEST).to(tl.float32)
        highest = tl.maximum(top, tl.max(found, 0))
        total = total * tl.exp(top - highest) + tl.sum(tl.exp(found - highest), 0)
        top = highest
    result = top + tl.log(total)
    tl.store(sums + n, result)
    tl.store(losses + n, result - tl.load(logits + tl.load(targets + n)).to(tl.float32))


@triton.jit
def backward_kernel(logits, targets, sums, d_losses, d_stride, row, columns, BV: tl.constexpr):
    """The gradient of a row's logits in their place. Grid: N."""
    n = tl.program_id(0).to(tl.int64)
    logits += n * row
    result = tl.load(sums + n)
    target = tl.load(targets + n)
    slope = tl.load(d_losses + n * d_stride)
    column = tl.arange(0, BV)
    for first in range(0, columns, BV):
        place = first + column
        found = tl.load(logits + place, mask=place < columns, other=0.0).to(tl.float32)
        share = tl.exp(found - result) - tl.where(place == target, 1.0, 0.0)
        tl.store(logits + place, (share * slope).to(logits.dtype.element_ty), mask=place < columns)
