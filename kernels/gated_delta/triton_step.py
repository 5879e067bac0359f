# mypy: ignore-errors
# (Triton's language is not Python's types: a jitted function sees pointers and tiles.)
"""Triton kernel of one decoding step of the gated delta rule: the state is read once and written once."""

import triton
import triton.language as tl


@triton.jit(do_not_specialize=["heads", "value_heads"])
def step_kernel(
    q,
    k,
    v,
    g,
    beta,
    state,
    output,
    new_state,
    scale,
    heads,
    value_heads,
    key_size,
    value_size,
    K: tl.constexpr,
    BV: tl.constexpr,
    GATED: tl.constexpr,
):
    """BV value columns of one head of one sequence. Grid: B HV (V / BV)."""
    tiles = tl.cdiv(value_size, BV)
    tile = tl.program_id(0) % tiles
    x = tl.program_id(0) // tiles
    batch = x // value_heads
    head = batch * heads + x % value_heads // (value_heads // heads)
    key_columns = tl.arange(0, K)
    value_columns = tile * BV + tl.arange(0, BV)
    is_key = key_columns < key_size
    is_value = value_columns < value_size
    state += x.to(tl.int64) * key_size * value_size
    new_state += x.to(tl.int64) * key_size * value_size
    offsets = key_columns[:, None] * value_size + value_columns[None, :]
    whole = is_key[:, None] & is_value[None, :]
    now = tl.load(state + offsets, mask=whole, other=0.0)
    key = tl.load(k + head * key_size + key_columns, mask=is_key, other=0.0).to(tl.float32)
    query = tl.load(q + head * key_size + key_columns, mask=is_key, other=0.0).to(tl.float32)
    value = tl.load(v + x * value_size + value_columns, mask=is_value, other=0.0).to(tl.float32)
    strength = tl.load(beta + x).to(tl.float32)
    if GATED:
        now *= tl.exp(tl.load(g + x).to(tl.float32))
    error = (value - tl.sum(key[:, None] * now, 0)) * strength
    now += key[:, None] * error[None, :]
    tl.store(new_state + offsets, now, mask=whole)
    found = tl.sum(query[:, None] * now, 0) * scale
    tl.store(output + x * value_size + value_columns, found.to(output.dtype.element_ty), mask=is_value)
