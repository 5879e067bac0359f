"""Softmax attention of token routing without gradients: over chunks that were kept, and none that was dropped.

A page holds the keys and values of one softmax-typed chunk of one sequence and linear head; pages lie in one storage,
in any order, and `rows` names the sequence and head of each. So memory and work follow the share of softmax-typed
chunks of every head, without padding to the fullest one. Shapes depend on the routing, so the host reads the types of
a prompt once; a decode step reads nothing.

Axes: B sequences, H linear heads, G softmax heads per linear head, A = H G softmax heads, P pages, C tokens of a chunk,
L tokens of the open chunk, Ka key size, Va value size.
"""

from functools import lru_cache

import torch
from torch import Tensor
from torch.nn import functional as F

from hybridsearch.kernels.token_routing.chunked import linear_branch
from hybridsearch.kernels.token_routing.reference import LinearState, OwnChunk

SEGMENT = 1024
"""Tokens of a prompt that the linear branch works on together; C x C numbers a token are alive at once."""

BLOCK_ROWS = 64
"""Least queries of one block of a prompt; 32 to 128 are alike on one core."""


def paged_attention_step(
    q: Tensor,
    pages: tuple[Tensor, Tensor],
    rows: Tensor,
    own: tuple[Tensor, Tensor] | None,
    *,
    scale: float | None = None,
) -> Tensor:
    """One query per softmax head over its row's pages and its own chunk in one softmax: [B, A, Va]; zero without a key.

    Args:
        q: [B, A, Ka].
        pages: keys [P, G, C, Ka] and values [P, G, C, Va].
        rows: [P], int64; page p belongs to row b H + h.
        own: keys [B, A, L, Ka] and values [B, A, L, Va] of the open chunk, the query's own token included; or none.
        scale: of the scores; none means Ka ** -0.5.
    """
    keys, values = pages
    batch, heads, size = q.shape
    exact = torch.promote_types(q.dtype, torch.float32)
    queries = q * (size**-0.5 if scale is None else scale)
    own_scores = None if own is None else _product(queries[:, :, None], own[0].mT).to(exact)
    if not len(rows):
        if own_scores is None or own is None:
            return q.new_zeros(batch, heads, values.shape[3])
        return _product(own_scores.softmax(-1).to(q.dtype), own[1])[:, :, 0]
    group = keys.shape[1]
    owners = (batch * heads // group, group)
    queries = queries.reshape(*owners, size)
    scores = _product(queries.index_select(0, rows)[:, :, None], keys.mT).to(exact)[:, :, 0]
    if own_scores is None:
        most = scores.new_full(owners, torch.finfo(exact).min)
    else:
        own_scores = own_scores.view(*owners, -1)
        most = own_scores.amax(-1)
    most = most.scatter_reduce(0, rows[:, None].expand(-1, group), scores.amax(-1), "amax")
    weights = scores.sub_(most.index_select(0, rows)[..., None]).exp_()
    total = torch.zeros_like(most).index_add_(0, rows, weights.sum(-1))
    of_pages = _product(weights[:, :, None].to(q.dtype), values).to(exact)[:, :, 0]
    o = of_pages.new_zeros(*owners, values.shape[3]).index_add_(0, rows, of_pages)
    if own is not None and own_scores is not None:
        own_weights = own_scores.sub_(most[..., None]).exp_()
        total += own_weights.sum(-1)
        o += _product(own_weights.view(batch, heads, 1, -1).to(q.dtype), own[1]).view(o.shape)
    o /= total.clamp_(min=torch.finfo(exact).tiny)[..., None]
    return o.view(batch, heads, -1).to(q.dtype)


def _product(a: Tensor, b: Tensor) -> Tensor:
    """[X, Y, I, J] @ [X, Y, J, K], as one batch of products."""
    return torch.bmm(a.flatten(0, 1), b.flatten(0, 1)).view(*a.shape[:3], b.shape[-1])


@torch.no_grad()
def token_routed_prompt(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    linear_q: Tensor,
    linear_k: Tensor,
    linear_v: Tensor,
    g: Tensor | None,
    beta: Tensor,
    route: Tensor,
    *,
    chunk: int,
    own_chunk: OwnChunk = "both",
    decay_through: bool = True,
    scale: float | None = None,
    linear_scale: float | None = None,
) -> tuple[Tensor, Tensor, LinearState]:
    """Both branches of whole prompts on a CPU, without gradients; arguments as in `reference`."""
    softmax_out = prompt_attention(q, k, v, route[..., 0] > 0.5, chunk=chunk, own_chunk=own_chunk, scale=scale)
    outputs, state = [], None
    step = chunk * max(1, SEGMENT // chunk)
    for start in range(0, q.shape[1], step):
        part = slice(start, start + step)
        output, state = linear_branch(
            linear_q[:, part],
            linear_k[:, part],
            linear_v[:, part],
            None if g is None else g[:, part],
            beta[:, part],
            route[:, start // chunk : (start + step) // chunk, :, 1],
            chunk=chunk,
            reads_own=own_chunk != "softmax",
            decay_through=decay_through,
            scale=linear_scale,
            initial_state=None if state is None else state.running,
        )
        outputs.append(output)
    if state is None:
        raise ValueError("a prompt needs at least one token")
    return softmax_out, torch.cat(outputs, 1), state


@torch.no_grad()
def prompt_attention(
    q: Tensor, k: Tensor, v: Tensor, typed: Tensor, *, chunk: int, own_chunk: OwnChunk, scale: float | None = None
) -> Tensor:
    """The softmax branch of whole prompts, [B, T, A, Va], reading only kept chunks; arguments as in `reference`.

    Every sequence and head is worked through on its own, a block of queries at a time: the keys kept so far lie in one
    piece, and the block's own behind them. So the work is that of the softmax-typed chunks, on a CPU.
    """
    batch, tokens, heads, size = q.shape
    exact = torch.promote_types(v.dtype, torch.float32)
    group = heads // typed.shape[2]
    scale = size**-0.5 if scale is None else scale
    rows = [x.transpose(1, 2).reshape(-1, group, tokens, x.shape[3]).to(exact) for x in (q * scale, k, v)]
    o = torch.empty_like(rows[2])
    for row, kept in enumerate(typed.transpose(1, 2).flatten(0, 1).tolist()):
        _prompt_row(rows[0][row], rows[1][row], rows[2][row], o[row], kept, chunk, own_chunk)
    return o.view(batch, heads, tokens, -1).transpose(1, 2).to(v.dtype)


def _prompt_row(q: Tensor, k: Tensor, v: Tensor, o: Tensor, kept: list[bool], chunk: int, own_chunk: OwnChunk) -> None:
    """One sequence and linear head, q (scaled) and k [G, T, Ka], v [G, T, Va]: fills `o` [G, T, Va]."""
    group, tokens, size = q.shape
    rows = chunk * max(1, BLOCK_ROWS // chunk)
    room = sum(kept) * chunk + rows
    keys, values = k.new_empty(group, size, room), v.new_empty(group, room, v.shape[2])
    length = 0
    for start in range(0, tokens, rows):
        stop = min(start + rows, tokens)
        end = length + stop - start
        keys[:, :, length:end], values[:, length:end] = k[:, start:stop].mT, v[:, start:stop]
        scores = torch.bmm(q[:, start:stop], keys[:, :, :end])
        hidden = _hidden_in_block(tuple(kept[start // chunk : -(-stop // chunk)]), stop - start, chunk, own_chunk)
        scores[:, :, length:].masked_fill_(hidden.to(q.device), torch.finfo(q.dtype).min)
        torch.bmm(scores.softmax(-1), values[:, :end], out=o[:, start:stop])
        if not length and own_chunk == "linear":  # the only case of queries without any key
            o[:, start:stop].masked_fill_(hidden.all(-1, keepdim=True).to(q.device), 0.0)
        for first in range(start, stop - chunk + 1, chunk):
            if kept[first // chunk]:
                keys[:, :, length : length + chunk] = k[:, first : first + chunk].mT
                values[:, length : length + chunk] = v[:, first : first + chunk]
                length += chunk


@lru_cache(maxsize=64)
def _hidden_in_block(kept: tuple[bool, ...], rows: int, chunk: int, own_chunk: OwnChunk) -> Tensor:
    """[rows, rows]: the keys of a block of chunks that its queries do not see; the chunks' types are `kept`."""
    position = torch.arange(rows)
    chunks = position // chunk
    of_key = F.pad(torch.tensor(kept, dtype=torch.bool), [0, -(-rows // chunk) - len(kept)]).repeat_interleave(chunk)
    seen = (chunks < chunks[:, None]) & of_key[:rows]
    if own_chunk != "linear":
        seen = seen | ((chunks == chunks[:, None]) & (position <= position[:, None]))
    return ~seen
