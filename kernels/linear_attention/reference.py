"""Gated linear attention, token by token: what every faster form is checked against.

S_t = diag(exp(g_t)) S_{t-1} + k_t v_t^T,  o_t = scale S_t^T q_t  (Yang et al., 2312.06635; one decay a head: Mamba-2,
2405.21060). Axes: B batch, T tokens, H heads, K key size, V value size.
"""

import torch
from torch import Tensor


def gated_linear_attention(
    q: Tensor, k: Tensor, v: Tensor, g: Tensor, *, scale: float | None = None, initial_state: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """Output [B, T, H, V] in v's dtype and the final state [B, H, K, V] in float32 (float64 for float64 inputs).

    Args:
        q: [B, T, H, K].
        k: [B, T, H, K].
        v: [B, T, H, V].
        g: [B, T, H] or [B, T, H, K], the logarithm of the decay, at most 0.
        scale: of the output; none means K ** -0.5.
        initial_state: [B, H, K, V]; none means zeros.
    """
    exact = torch.promote_types(v.dtype, torch.float32)
    shape = (v.shape[0], v.shape[2], k.shape[3], v.shape[3])
    state = v.new_zeros(shape, dtype=exact) if initial_state is None else initial_state.to(exact)
    scale = k.shape[-1] ** -0.5 if scale is None else scale
    if g.dim() == 3:
        g = g[..., None]
    outputs = []
    for t in range(v.shape[1]):
        decay = g[:, t].to(exact).exp()[..., None]
        state = decay * state + k[:, t].to(exact)[..., None] * v[:, t].to(exact)[..., None, :]
        outputs.append(torch.einsum("bhk,bhkv->bhv", q[:, t].to(exact), state) * scale)
    return torch.stack(outputs, 1).to(v.dtype), state
