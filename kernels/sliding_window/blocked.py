"""Sliding-window attention in plain PyTorch, a block of queries at a time: memory and work grow as T x window."""

from functools import lru_cache

import torch
from torch import Tensor
from torch.nn.functional import pad, scaled_dot_product_attention

BLOCK = 64
"""Least queries of a block: smaller ones cost more in handling than they save in masked scores."""


def sliding_window_attention(
    q: Tensor, k: Tensor, v: Tensor, *, window: int, sinks: int = 0, scale: float | None = None
) -> Tensor:
    """[B, T, H, K], [B, T, G, K], [B, T, G, V] -> [B, T, H, V]; H is a multiple of G.

    Query i sees key j if j <= i and (i - j < window or j < sinks). `scale` none means K ** -0.5.
    """
    length, grouped = q.shape[1], q.shape[2] != k.shape[2]
    block = max(window, BLOCK)
    if length <= 2 * block:
        mask = None if length <= window else _mask(1, length, 0, window, sinks, q.device)[0]
        q, k, v = (x.transpose(1, 2) for x in (q, k, v))
        o = scaled_dot_product_attention(
            q, k, v, attn_mask=mask, is_causal=mask is None, scale=scale, enable_gqa=grouped
        )
        return o.transpose(1, 2)
    batch, blocks = q.shape[0], -(-length // block)
    q = _blocks(q, block)
    k, v = (_neighbourhoods(x, block, window, sinks) for x in (k, v))
    mask = _mask(blocks, block, window, window, sinks, q.device)[:, None]
    o = scaled_dot_product_attention(q, k, v, attn_mask=mask, scale=scale, enable_gqa=grouped)
    return torch.unflatten(o, 1, (batch, -1)).permute(1, 0, 3, 2, 4).flatten(1, 2)[:, :length]


def _blocks(x: Tensor, block: int) -> Tensor:
    """[B, T, H, D] -> [N, B H, block, D], zeros after the end."""
    x = pad(x, (0, 0, 0, 0, 0, -x.shape[1] % block))
    return torch.unflatten(x, 1, (-1, block)).permute(1, 0, 3, 2, 4).flatten(1, 2)


def _neighbourhoods(x: Tensor, block: int, window: int, sinks: int) -> Tensor:
    """[B, T, G, D] -> [N, B G, sinks + window + block, D]: the sinks, the `window` tokens before a block, the block."""
    padded = pad(x, (0, 0, 0, 0, window, -x.shape[1] % block)).transpose(1, 2)
    near = padded.unfold(2, window + block, block).permute(2, 0, 1, 4, 3)
    first = x[:, :sinks].transpose(1, 2).expand(near.shape[0], -1, -1, -1, -1)
    return torch.cat((first, near), dim=3).flatten(1, 2)


@lru_cache(maxsize=32)
def _mask(blocks: int, block: int, before: int, window: int, sinks: int, device: torch.device) -> Tensor:
    """Which of a block's queries see which of its neighbourhood's keys, [N, block, sinks + before + block].

    With `before` 0 there is one block, whose keys are all tokens, and the sinks are among them. Made outside of
    inference mode, for a mask first used in a measurement also serves the training after it.
    """
    with torch.inference_mode(False), torch.no_grad():
        start = torch.arange(blocks, device=device)[:, None, None] * block
        i = start + torch.arange(block, device=device)[:, None]
        j = start + torch.arange(-before, block, device=device)
        near = (j >= 0) & (j <= i) & (i - j < window)
        if not before:
            return near | ((j < sinks) & (j <= i))
        first = torch.arange(sinks, device=device)
        return torch.cat(((i - first >= window).expand(blocks, block, sinks), near), dim=-1)
