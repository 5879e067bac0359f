"""The delta rule with a decay a key channel, token by token: what every faster form is checked against.

S_t = (I - beta_t k_t k_t^T) diag(exp(g_t)) S_{t-1} + beta_t k_t v_t^T,  o_t = scale S_t^T q_t
(Kimi Delta Attention, 2510.26692). Axes: B batch, T tokens, H heads of q and k, HV = H R heads of v, g, beta and the
state (value head j reads query head j // R), K key size, V value size.
"""

import torch
from torch import Tensor


def kimi_delta_rule(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    g: Tensor,
    beta: Tensor,
    *,
    scale: float | None = None,
    initial_state: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """Output [B, T, HV, V] in v's dtype and the final state [B, HV, K, V] in float32 (float64 for float64 inputs).

    Args:
        q: [B, T, H, K], already normalised to length 1 by the caller, like k.
        k: [B, T, H, K].
        v: [B, T, HV, V].
        g: [B, T, HV, K], the logarithm of each key channel's decay, at most 0.
        beta: [B, T, HV], the strength of writing.
        scale: of the output; none means K ** -0.5.
        initial_state: [B, HV, K, V]; none means zeros.
    """
    exact = torch.promote_types(v.dtype, torch.float32)
    groups = v.shape[2] // k.shape[2]
    q, k = (x.to(exact).repeat_interleave(groups, 2) for x in (q, k))
    shape = (v.shape[0], v.shape[2], k.shape[3], v.shape[3])
    state = q.new_zeros(shape) if initial_state is None else initial_state.to(exact)
    outputs = []
    for t in range(v.shape[1]):
        token = (q[:, t], k[:, t], v[:, t].to(exact), g[:, t], beta[:, t])
        output, state = kimi_delta_step(*token, state, scale=scale)
        outputs.append(output)
    return (torch.stack(outputs, 1) if outputs else v.new_zeros(v.shape)).to(v.dtype), state


def kimi_delta_step(
    q: Tensor, k: Tensor, v: Tensor, g: Tensor, beta: Tensor, state: Tensor, *, scale: float | None = None
) -> tuple[Tensor, Tensor]:
    """One token: output [B, HV, V] in v's dtype and the new state; the given state is left as it was.

    Args:
        q: [B, H, K].
        k: [B, H, K].
        v: [B, HV, V].
        g: [B, HV, K].
        beta: [B, HV].
        state: [B, HV, K, V], float32 or float64.
        scale: of the output; none means K ** -0.5.
    """
    batch, heads, size = v.shape
    key_size = k.shape[-1]
    groups = heads // k.shape[1]
    if groups > 1:
        q, k = q.repeat_interleave(groups, 1), k.repeat_interleave(groups, 1)
    scale = key_size**-0.5 if scale is None else scale
    row = (batch * heads, 1, -1)
    key = k.to(state.dtype).reshape(row)
    before = (state * g.to(state.dtype).exp()[..., None]).reshape(batch * heads, key_size, size)
    error = torch.baddbmm(v.to(state.dtype).reshape(row), key, before, alpha=-1.0) * beta.to(state.dtype).reshape(row)
    after = torch.baddbmm(before, key.mT, error)
    output = (q.to(state.dtype).reshape(row) * scale) @ after
    return output.reshape(batch, heads, size).to(v.dtype), after.reshape(batch, heads, key_size, size)
