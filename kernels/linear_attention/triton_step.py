# mypy: ignore-errors
# (Triton's language is not Python's types: a jitted function sees pointers and tiles.)
"""Triton kernel of one decoding step of gated linear attention: the state is read once and written once."""

import triton
import triton.language as tl


@triton.jit
def step_kernel(
    q,
    k,
    v,
    g,
    state,
    output,
    new_state,
    scale,
    key_size,
    value_size,
    K: tl.constexpr,
    BV: tl.constexpr,
    VECTOR: tl.constexpr,
):
    """BV value columns of one head of one sequence. Grid: B H (V / BV), rounded up."""
    tiles = tl.cdiv(value_size, BV)
    x = (tl.program_id(0) // tiles).to(tl.int64)
    key_columns = tl.arange(0, K)
    value_columns = tl.program_id(0) % tiles * BV + tl.arange(0, BV)
    is_key = key_columns < key_size
    is_value = value_columns < value_size
    offsets = x * key_size * value_size + key_columns[:, None] * value_size + value_columns[None, :]
    whole = is_key[:, None] & is_value[None, :]
    now = tl.load(state + offsets, mask=whole, other=0.0)
    key = tl.load(k + x * key_size + key_columns, mask=is_key, other=0.0).to(tl.float32)
    query = tl.load(q + x * key_size + key_columns, mask=is_key, other=0.0).to(tl.float32)
    value = tl.load(v + x * value_size + value_columns, mask=is_value, other=0.0).to(tl.float32)
    if VECTOR:
        now *= tl.exp(tl.load(g + x * key_size + key_columns, mask=is_key, other=0.0).to(tl.float32))[:, None]
    else:
        now *= tl.exp(tl.load(g + x).to(tl.float32))
    now += key[:, None] * value[None, :]
    tl.store(new_state + offsets, now, mask=whole)
    found = tl.sum(query[:, None] * now, 0) * scale
    tl.store(output + x * value_size + value_columns, found.to(output.dtype.element_ty), mask=is_value)
