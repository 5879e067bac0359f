"""Token routing (NAtS-L, 2602.03681) as dense attention and a token loop: what every faster form is checked against.

Tokens are cut into chunks of `chunk`; each complete chunk is typed, per linear head, softmax or linear. A query reads
two branches:

- softmax: the keys j <= i of its own chunk c(i), and all keys of earlier softmax-typed chunks, in one softmax;
- linear: the gated delta rule through its own chunk, started from the state that earlier linear-typed chunks left.

`own_chunk` may take the own chunk out of one branch: a softmax without any key gives zero; a linear branch without its
own chunk reads the decayed state from before it. After a linear-typed chunk the state keeps the chunk's writes; after a
softmax-typed one it is decayed by the chunk's decays, or left as it was if `decay_through` is off.

Gradient of the route: with a factor m on a chunk's keys in the softmax (weight ~ m exp(s), own chunk excepted) and on
its net write to the state, dL/dm at m = 1, and 0 for the type that a chunk was not given.

Axes: B batch, T tokens, N = T // chunk complete chunks, H linear heads with sizes K and V, A softmax heads (a multiple
of H; head a follows linear head a // (A / H)) with sizes Ka and Va.
"""

from typing import Literal, NamedTuple

import torch
from torch import Tensor

OwnChunk = Literal["both", "softmax", "linear"]


class LinearState(NamedTuple):
    """What the linear branch carries on, in float32 (float64 for float64 inputs). After a complete chunk both agree."""

    entering: Tensor
    """[B, H, K, V]: the state before the open (incomplete) chunk."""
    running: Tensor
    """[B, H, K, V]: the state with the open chunk's tokens so far."""
    decay: Tensor
    """[B, H]: the product of the open chunk's decays so far, 1 before its first token."""


def token_routed_attention(
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
    initial_state: Tensor | None = None,
) -> tuple[Tensor, Tensor, LinearState]:
    """Outputs of the softmax branch [B, T, A, Va] and of the linear branch [B, T, H, V], and the linear state.

    Args:
        q: [B, T, A, Ka], normed and with positions, as k.
        k: [B, T, A, Ka].
        v: [B, T, A, Va].
        linear_q: [B, T, H, K], of length 1, as linear_k.
        linear_k: [B, T, H, K].
        linear_v: [B, T, H, V].
        g: [B, T, H], the logarithm of the decay, at most 0; none for no decay.
        beta: [B, T, H], the strength of writing.
        route: [B, N, H, 2], one-hot: softmax, linear. Its gradient is that of the factor m.
        chunk: tokens of a chunk.
        own_chunk: the branches in which a query sees its own chunk.
        decay_through: whether the state decays through softmax-typed chunks.
        scale: of the softmax; none means Ka ** -0.5.
        linear_scale: of the linear output; none means K ** -0.5.
        initial_state: [B, H, K, V] before the first token; none means zeros.
    """
    softmax_out = _softmax_branch(q, k, v, route[..., 0], chunk, own_chunk, scale)
    linear_out, state = _linear_branch(
        linear_q,
        linear_k,
        linear_v,
        g,
        beta,
        route[..., 1],
        chunk,
        own_chunk,
        decay_through,
        linear_scale,
        initial_state,
    )
    return softmax_out, linear_out, state


def _softmax_branch(
    q: Tensor, k: Tensor, v: Tensor, gate: Tensor, chunk: int, own_chunk: OwnChunk, scale: float | None
) -> Tensor:
    exact = torch.promote_types(v.dtype, torch.float32)
    batch, tokens, heads, size = q.shape
    scores = torch.einsum("biad,bjad->baij", q.to(exact), k.to(exact)) * (size**-0.5 if scale is None else scale)
    rows = []
    for i in range(tokens):
        own = i // chunk
        bias = scores.new_full((batch, heads, tokens), -torch.inf)
        for earlier in range(own):
            column = _log_gate(gate[:, earlier].to(exact)).repeat_interleave(heads // gate.shape[2], 1)
            bias[:, :, earlier * chunk : (earlier + 1) * chunk] = column[..., None]
        if own_chunk != "linear":
            bias[:, :, own * chunk : i + 1] = 0.0
        row = scores[:, :, i] + bias
        empty = (bias == -torch.inf).all(-1, keepdim=True)
        weights = torch.where(empty, 0.0, row.masked_fill(empty, 0.0).softmax(-1))
        rows.append(torch.einsum("baj,bjav->bav", weights, v.to(exact)))
    return torch.stack(rows, 1).to(v.dtype)


def _log_gate(gate: Tensor) -> Tensor:
    """log m where the chunk is of this type (m = 1), and -inf without gradient where it is not."""
    typed = gate > 0.5
    return torch.where(typed, torch.where(typed, gate, 1.0).log(), -torch.inf)


def _linear_branch(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    g: Tensor | None,
    beta: Tensor,
    gate: Tensor,
    chunk: int,
    own_chunk: OwnChunk,
    decay_through: bool,
    scale: float | None,
    initial_state: Tensor | None,
) -> tuple[Tensor, LinearState]:
    exact = torch.promote_types(v.dtype, torch.float32)
    batch, tokens, heads, size = q.shape
    q, k, values, beta = (x.to(exact) for x in (q, k, v, beta))
    q = q * (size**-0.5 if scale is None else scale)
    g = beta.new_zeros(beta.shape) if g is None else g.to(exact)
    entering = q.new_zeros(batch, heads, size, v.shape[3]) if initial_state is None else initial_state.to(exact)
    running, decay, outputs = entering, q.new_ones(batch, heads), []
    for t in range(tokens):
        decay = decay * g[:, t].exp()
        running = running * g[:, t].exp()[..., None, None]
        error = values[:, t] - torch.einsum("bhk,bhkv->bhv", k[:, t], running)
        running = running + torch.einsum("bhk,bhv->bhkv", k[:, t], beta[:, t, :, None] * error)
        decayed = entering * decay[..., None, None]
        read = decayed if own_chunk == "softmax" else running
        outputs.append(torch.einsum("bhk,bhkv->bhv", q[:, t], read))
        if (t + 1) % chunk == 0:
            factor = gate[:, t // chunk].to(exact)[..., None, None]
            linear = factor > 0.5
            kept = torch.where(linear, decayed, decayed if decay_through else entering)
            entering = running = kept + torch.where(linear, factor, 0.0) * (running - decayed)
            decay = torch.ones_like(decay)
    return torch.stack(outputs, 1).to(v.dtype), LinearState(entering, running, decay)
