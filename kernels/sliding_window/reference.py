"""Sliding-window attention with sinks by its definition, all T x T scores at once: the oracle of the tests."""

import torch
from torch import Tensor


def sliding_window_attention(
    q: Tensor, k: Tensor, v: Tensor, *, window: int, sinks: int = 0, scale: float | None = None
) -> Tensor:
    """[B, T, H, K], [B, T, G, K], [B, T, G, V] -> [B, T, H, V]; H is a multiple of G.

    Query i sees key j if j <= i and (i - j < window or j < sinks). `scale` none means K ** -0.5.
    """
    length, repeats = q.shape[1], q.shape[2] // k.shape[2]
    k, v = (x.repeat_interleave(repeats, dim=2) for x in (k, v))
    scores = torch.einsum("bihk,bjhk->bhij", q, k) * (q.shape[-1] ** -0.5 if scale is None else scale)
    i, j = torch.arange(length, device=q.device)[:, None], torch.arange(length, device=q.device)
    seen = (j <= i) & ((i - j < window) | (j < sinks))
    return torch.einsum("bhij,bjhv->bihv", scores.masked_fill(~seen, -torch.inf).softmax(-1), v)
