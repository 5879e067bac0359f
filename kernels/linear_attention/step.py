"""One decode step of gated linear attention in plain PyTorch."""

import torch
from torch import Tensor


def gated_linear_attention_step(
    q: Tensor, k: Tensor, v: Tensor, g: Tensor, state: Tensor, *, scale: float | None = None
) -> tuple[Tensor, Tensor]:
    """One token: output [B, H, V] in v's dtype and the new state; the given state is left as it was.

    Args:
        q: [B, H, K].
        k: [B, H, K].
        v: [B, H, V].
        g: [B, H] or [B, H, K].
        state: [B, H, K, V], float32 or float64.
        scale: of the output; none means K ** -0.5.
    """
    batch, heads, key_size = k.shape
    value_size = v.shape[-1]
    scale = key_size**-0.5 if scale is None else scale
    decay = g.to(state.dtype).exp()
    kept = (state * (decay[..., None] if g.dim() == 3 else decay[..., None, None])).flatten(0, 1)
    key, value = k.to(state.dtype).reshape(-1, key_size, 1), v.to(state.dtype).reshape(-1, 1, value_size)
    after = torch.baddbmm(kept, key, value)
    o = (q.to(state.dtype).reshape(-1, 1, key_size) * scale) @ after
    return o.reshape(batch, heads, value_size).to(v.dtype), after.reshape(batch, heads, key_size, value_size)
