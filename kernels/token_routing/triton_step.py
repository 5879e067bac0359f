# mypy: ignore-errors
# (Triton's language is not Python's types: a jitted function sees pointers and tiles.)
"""Triton kernels of one decoding step of token routing's softmax branch: every page is read once.

A program takes one page and softmax head and leaves its part of the softmax: the largest score and the sum of weights
(`sums` [2, P, G]) and the weighted values (`parts` [P, G, V]), not yet divided. Then a program for every query reads
the open chunk and joins it with the parts of its pages; it finds them by their owner, in whatever order they lie.
Scores are to the base of 2.
"""

import triton
import triton.language as tl

LOG2E = tl.constexpr(1.4426950408889634)
LEAST = tl.constexpr(-1e30)
"""Stands for the largest score of a query without any: finite, so that differences from it are no NaN."""


@triton.jit
def _part(query, key_tile, value_tile, inside, is_key, is_value, key_offsets, value_offsets, scale):
    """Largest score, sum of weights and weighted values of one query over a tile of tokens."""
    keys = tl.load(key_tile + key_offsets, mask=inside[:, None] & is_key[None, :], other=0.0).to(tl.float32)
    values = tl.load(value_tile + value_offsets, mask=inside[:, None] & is_value[None, :], other=0.0).to(tl.float32)
    scores = tl.where(inside, tl.sum(keys * query[None, :], 1) * scale, -float("inf"))
    most = tl.max(scores, 0)
    weights = tl.exp2(scores - most)
    return most, tl.sum(weights, 0), tl.sum(weights[:, None] * values, 0)


@triton.jit(do_not_specialize=["pages", "group", "chunk", "key_size", "value_size"])
def page_kernel(
    q,
    keys,
    values,
    rows,
    parts,
    sums,
    scale,
    pages,
    group,
    chunk,
    key_size,
    value_size,
    C: tl.constexpr,
    K: tl.constexpr,
    V: tl.constexpr,
):
    """One page and softmax head. Grid: P G."""
    place = tl.program_id(0).to(tl.int64)
    key_columns = tl.arange(0, K)
    value_columns = tl.arange(0, V)
    is_key = key_columns < key_size
    is_value = value_columns < value_size
    tokens = tl.arange(0, C)
    head = tl.load(rows + place // group) * group + place % group
    query = tl.load(q + head * key_size + key_columns, mask=is_key, other=0.0).to(tl.float32)
    most, total, mixed = _part(
        query,
        keys + place * chunk * key_size,
        values + place * chunk * value_size,
        tokens < chunk,
        is_key,
        is_value,
        tokens[:, None] * key_size + key_columns[None, :],
        tokens[:, None] * value_size + value_columns[None, :],
        scale * LOG2E,
    )
    tl.store(sums + place, most)
    tl.store(sums + pages * group + place, total)
    tl.store(parts + place * value_size + value_columns, mixed, mask=is_value)


@triton.jit(
    do_not_specialize=[
        "heads",
        "pages",
        "group",
        "key_size",
        "value_size",
        "own_tokens",
        "key_batch",
        "key_head",
        "value_batch",
        "value_head",
    ]
)
def merge_kernel(
    q,
    own_keys,
    own_values,
    rows,
    parts,
    sums,
    listed,
    output,
    scale,
    heads,
    pages,
    group,
    key_size,
    value_size,
    own_tokens,
    key_batch,
    key_head,
    value_batch,
    value_head,
    K: tl.constexpr,
    V: tl.constexpr,
):
    """One query: its open chunk, then its pages, which it lists. Grid: B A. `key_batch` to `value_head` are strides."""
    TOKENS: tl.constexpr = 32
    OWNERS: tl.constexpr = 1024
    PAGES: tl.constexpr = 32
    x = tl.program_id(0).to(tl.int64)
    key_columns = tl.arange(0, K)
    value_columns = tl.arange(0, V)
    is_key = key_columns < key_size
    is_value = value_columns < value_size
    most = LEAST
    total = 0.0
    mixed = tl.zeros((V,), tl.float32)
    if own_keys is not None:
        query = tl.load(q + x * key_size + key_columns, mask=is_key, other=0.0).to(tl.float32)
        for start in range(0, own_tokens, TOKENS):
            tokens = start + tl.arange(0, TOKENS)
            more, weight, values = _part(
                query,
                own_keys + x // heads * key_batch + x % heads * key_head,
                own_values + x // heads * value_batch + x % heads * value_head,
                tokens < own_tokens,
                is_key,
                is_value,
                tokens[:, None] * key_size + key_columns[None, :],
                tokens[:, None] * value_size + value_columns[None, :],
                scale * LOG2E,
            )
            now = tl.maximum(most, more)
            total = total * tl.exp2(most - now) + weight * tl.exp2(more - now)
            mixed = mixed * tl.exp2(most - now) + values * tl.exp2(more - now)
            most = now
    listed += x * pages
    count = 0
    for start in range(0, pages, OWNERS):
        page = start + tl.arange(0, OWNERS)
        mine = tl.load(rows + page, mask=page < pages, other=-1) == x // group
        tl.store(listed + count + tl.cumsum(mine.to(tl.int32), 0) - 1, page, mask=mine)
        count += tl.sum(mine.to(tl.int32), 0)
    tl.debug_barrier()  # other threads of the program read the list
    for start in range(0, count, PAGES):
        place = start + tl.arange(0, PAGES)
        mine = place < count
        place = tl.load(listed + place, mask=mine, other=0).to(tl.int64) * group + x % group
        mores = tl.load(sums + place, mask=mine, other=-float("inf"))
        weights = tl.load(sums + pages * group + place, mask=mine, other=0.0)
        offsets = place[:, None] * value_size + value_columns[None, :]
        values = tl.load(parts + offsets, mask=mine[:, None] & is_value[None, :], other=0.0)
        now = tl.maximum(most, tl.max(mores, 0))
        factors = tl.exp2(mores - now)
        total = total * tl.exp2(most - now) + tl.sum(weights * factors, 0)
        mixed = mixed * tl.exp2(most - now) + tl.sum(values * factors[:, None], 0)
        most = now
    mixed /= tl.where(total == 0.0, 1.0, total)
    tl.store(output + x * value_size + value_columns, mixed.to(output.dtype.element_ty), mask=is_value)
