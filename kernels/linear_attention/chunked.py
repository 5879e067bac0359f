"""Gated linear attention in plain PyTorch, a chunk of tokens at a time; differentiable by autograd, on any device.

Inside a chunk, with G = cumsum(g): o_i = scale (exp(G_i) q_i)^T S + scale sum_{j <= i} <q_i, exp(G_i - G_j) k_j> v_j and
S' = exp(G_last) S + sum_j (exp(G_last - G_j) k_j) v_j^T. Every exponent is a difference that is at most 0, so no decay is
too strong: with one decay a head the differences are taken pair by pair; with one a key channel a block is halved again
and again, and its later half sees the earlier one through the decay at their border (exp(G_i - G_b) exp(G_b - G_j)).
"""

import torch
from torch import Tensor
from torch.nn.functional import pad

LOWEST_LOG_DECAY = -100.0
"""A log decay below this counts as this (exp(-100) = 4e-44), so that even -inf leaves the sums in a chunk exact."""


def gated_linear_attention(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    g: Tensor,
    *,
    scale: float | None = None,
    initial_state: Tensor | None = None,
    chunk: int = 64,
) -> tuple[Tensor, Tensor]:
    """Output [B, T, H, V] in v's dtype and the final state [B, H, K, V]; arguments as in `reference`.

    Computes in float32, or float64 for float64 inputs. Any T; `chunk`, a power of two, is how many tokens are worked on
    together.
    """
    exact = torch.promote_types(v.dtype, torch.float32)
    tokens = v.shape[1]
    while chunk >= 2 * tokens:
        chunk //= 2
    scale = k.shape[-1] ** -0.5 if scale is None else scale
    with torch.autocast(v.device.type, enabled=False):
        q_, k_, v_, g_ = (_chunks(x.to(exact), chunk) for x in (q, k, v, g.unsqueeze(-1) if g.dim() == 3 else g))
        decays = g_.clamp(min=LOWEST_LOG_DECAY).cumsum(-2)
        inside = _pairwise if decays.shape[-1] == 1 else _halved
        o, state = _carried(q_ * scale, k_, v_, decays, initial_state)
        o = o + inside(q_ * scale, k_, v_, decays)
    return o.flatten(2, 3)[:, :, :tokens].transpose(1, 2).to(v.dtype), state


def _chunks(x: Tensor, chunk: int) -> Tensor:
    """[B, T, H, D] -> [B, H, N, C, D]; the padding (zero k and g) leaves the state as it is."""
    x = pad(x, (0, 0, 0, 0, 0, -x.shape[1] % chunk))
    return x.transpose(1, 2).unflatten(2, (-1, chunk))


def _carried(q: Tensor, k: Tensor, v: Tensor, decays: Tensor, state: Tensor | None) -> tuple[Tensor, Tensor]:
    """What each chunk reads of the chunks before it, and the final state."""
    last = decays[..., -1:, :]
    writes = (k * (last - decays).exp()).mT @ v
    kept = last.exp().mT
    state = torch.zeros_like(writes[:, :, 0]) if state is None else state.to(v.dtype)
    befores = []
    for n in range(writes.shape[2]):
        befores.append(state)
        state = torch.addcmul(writes[:, :, n], kept[:, :, n], state)
    return (q * decays.exp()) @ torch.stack(befores, 2), state


def _pairwise(q: Tensor, k: Tensor, v: Tensor, decays: Tensor) -> Tensor:
    """What each token reads inside its chunk, with one decay a head."""
    chunk = q.shape[-2]
    ahead = torch.ones(chunk, chunk, dtype=torch.bool, device=q.device).triu(1)
    between = (decays - decays.mT).masked_fill(ahead, -torch.inf).exp()
    return ((q @ k.mT) * between) @ v


def _halved(q: Tensor, k: Tensor, v: Tensor, decays: Tensor) -> Tensor:
    """What each token reads inside its block [..., L, D], with one decay a key channel."""
    length = q.shape[-2]
    if length == 1:
        return (q * k).sum(-1, keepdim=True) * v
    q, k, v, decays = (x.unflatten(-2, (2, length // 2)) for x in (q, k, v, decays))
    border = decays[..., :1, -1:, :]
    later = q[..., 1:, :, :] * (decays[..., 1:, :, :] - border).exp()
    earlier = k[..., :1, :, :] * (border - decays[..., :1, :, :]).exp()
    across = (later @ earlier.mT) @ v[..., :1, :, :]
    return (_halved(q, k, v, decays) + pad(across, (0, 0, 0, 0, 1, 0))).flatten(-3, -2)
