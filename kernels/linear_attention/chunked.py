"""Gated linear attention in plain PyTorch, a chunk of tokens at a time, with its gradients; on any device.

Inside a chunk, with G = cumsum(g) and A_ij = <q_i, exp(G_i - G_j) k_j> for j <= i:
o_i = (exp(G_i) q_i)^T S + sum_j A_ij v_j and S' = exp(G_last) S + sum_j (exp(G_last - G_j) k_j) v_j^T. Backwards, with
dA = tril(do v^T), the gradients of q and k are again such sums, and dG_i = q_i dq_i - k_i dk_i.

A is found in one of three ways, whose exponents can never overflow:
- gentle, where no chunk decays below exp(-60): A = tril((exp(G) q) (exp(-G) k)^T). To look costs a wait for the device,
  so it is only done on a CPU, where it is free.
- pair by pair, exp(G_i - G_j), for one decay a head.
- halved, for one decay a key channel: the later half of a block sees the earlier one through their border b,
  exp(G_i - G_b) exp(G_b - G_j), and each half is a block again.
"""

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn.functional import pad

LOWEST_LOG_DECAY = -100.0
"""A log decay below this counts as this (exp(-100) = 4e-44), so that even -inf leaves the sums in a chunk exact."""
GENTLE = -60.0
"""exp(60) = 1e26 leaves twelve orders of magnitude to the largest float32."""


def gated_linear_attention(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    g: Tensor,
    *,
    scale: float | None = None,
    initial_state: Tensor | None = None,
    chunk: int = 32,
) -> tuple[Tensor, Tensor]:
    """Output [B, T, H, V] in v's dtype and the final state [B, H, K, V]; arguments as in `reference`.

    Computes in float32, or float64 for float64 inputs. Any T; `chunk`, a power of two, is how many tokens are worked on
    together.
    """
    batch, tokens, heads = v.shape[:3]
    exact = torch.promote_types(v.dtype, torch.float32)
    while chunk >= 2 * tokens:
        chunk //= 2
    scale = k.shape[-1] ** -0.5 if scale is None else scale
    decay = (g.unsqueeze(-1) if g.dim() == 3 else g).to(exact).clamp(min=LOWEST_LOG_DECAY)
    rows = [_chunks(x.to(exact), chunk) for x in (q * scale, k, v, decay)]
    state = None if initial_state is None else initial_state.to(exact).flatten(0, 1)
    o, last = _Chunked.apply(*rows, state)  # type: ignore[no-untyped-call]
    o = o.view(batch, heads, -1, o.shape[-1])[:, :, :tokens].transpose(1, 2)
    return o.to(v.dtype), last.view(batch, heads, *last.shape[1:])


def _chunks(x: Tensor, chunk: int) -> Tensor:
    """[B, T, H, D] -> [B H, N, C, D]; the padding (zero k and g) leaves the state as it is."""
    missing = -x.shape[1] % chunk
    if missing:
        x = pad(x, (0, 0, 0, 0, 0, missing))
    x = x.transpose(1, 2)
    return x.reshape(x.shape[0] * x.shape[1], -1, chunk, x.shape[3])


class _Chunked(torch.autograd.Function):
    """The recurrence on [X, N, C, D], X = B H and N chunks of C tokens; q is scaled."""

    @staticmethod
    def forward(
        ctx: Any, q: Tensor, k: Tensor, v: Tensor, decay: Tensor, state: Tensor | None
    ) -> tuple[Tensor, Tensor]:
        """Output [X, N, C, V] and the state after the last chunk [X, K, V]."""
        sums = decay.cumsum(-2)
        gentle = _is_gentle(sums)
        rise = sums.exp()
        fall = rise.reciprocal() if gentle else (sums[..., -1:, :] - sums).exp()
        read, kept = q * rise, k * fall
        scores = (read @ kept.mT).tril_() if gentle else _scores(q, k, sums)
        if gentle:
            kept.mul_(rise[..., -1:, :])
        last = rise[..., -1:, :].mT
        befores, after = _carry(kept.mT @ v, last, state)
        ctx.save_for_backward(q, k, v, sums, rise, fall, scores, befores)
        ctx.gentle, ctx.stateful = gentle, state is not None
        return _sum_of_products(read, befores, scores, v), after

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, do: Tensor, d_after: Tensor) -> tuple[Tensor | None, ...]:
        """Gradients of q, k, v, the decay and the first state."""
        q, k, v, sums, rise, fall, scores, befores = ctx.saved_tensors
        do = do.contiguous()
        last = rise[..., -1:, :]
        read = q * rise
        d_states, d_first = _carry_back(read.mT @ do, last.mT, d_after)
        d_scores = (do @ v.mT).tril_()
        d_kept = v @ d_states.mT
        if ctx.gentle:
            falling = k * fall
            dq = _sum_of_products(do, befores.mT, d_scores, falling).mul_(rise)
            d_kept.mul_(last)
            d_last = (falling * d_kept).sum(-2, keepdim=True)
            dk = _product_plus(d_kept, d_scores.mT, read).mul_(fall)
            kept = falling.mul_(last)
        else:
            dq, dk = _scores_back(q, k, sums, d_scores)
            dq.addcmul_(do @ befores.mT, rise)
            dk.addcmul_(d_kept, fall)
            kept = k * fall
            d_last = (kept * d_kept).sum(-2, keepdim=True)
        dv = _sum_of_products(kept, d_states, scores.mT, do)
        d_last = d_last + last * (befores * d_states).sum(-1).unsqueeze(-2)
        d_sums = (q * dq).addcmul_(k, dk, value=-1.0)
        d_sums[..., -1:, :] += d_last
        if sums.shape[-1] == 1:
            d_sums = d_sums.sum(-1, keepdim=True)
        d_decay = d_sums.flip(-2).cumsum_(-2).flip(-2)
        return dq, dk, dv, d_decay, d_first if ctx.stateful else None


def _is_gentle(sums: Tensor) -> bool:
    return sums.device.type == "cpu" and bool((sums[..., -1, :] > GENTLE).all())


def _carry(writes: Tensor, last: Tensor, state: Tensor | None) -> tuple[Tensor, Tensor]:
    """The state [X, K, V] before each chunk, stacked, and after the last; `last` [X, N, K or 1, 1] decays it."""
    befores = torch.empty_like(writes)
    state = torch.zeros_like(writes[:, 0]) if state is None else state
    for n in range(writes.shape[1]):
        befores[:, n] = state
        state = torch.addcmul(writes[:, n], last[:, n], state)
    return befores, state


def _carry_back(reads: Tensor, last: Tensor, d_after: Tensor) -> tuple[Tensor, Tensor]:
    """The gradients of the state after each chunk, stacked, and of the first state."""
    d_states = torch.empty_like(reads)
    for n in reversed(range(reads.shape[1])):
        d_states[:, n] = d_after
        d_after = torch.addcmul(reads[:, n], last[:, n], d_after)
    return d_states, d_after


def _sum_of_products(a: Tensor, b: Tensor, c: Tensor, d: Tensor) -> Tensor:
    """a @ b + c @ d over the leading axes [X, N]."""
    return _product_plus(a @ b, c, d)


def _product_plus(x: Tensor, c: Tensor, d: Tensor) -> Tensor:
    """x + c @ d over the leading axes [X, N], in place of x."""
    x.flatten(0, 1).baddbmm_(c.flatten(0, 1), d.flatten(0, 1))
    return x


def _between(sums: Tensor) -> Tensor:
    """exp(G_i - G_j) for j <= i, else 0; one decay a head."""
    chunk = sums.shape[-2]
    ahead = torch.ones(chunk, chunk, dtype=torch.bool, device=sums.device).triu_(1)
    return (sums - sums.mT).masked_fill_(ahead, -torch.inf).exp_()


def _scores(q: Tensor, k: Tensor, sums: Tensor) -> Tensor:
    """A [..., C, C], lower triangular, for decays of any strength."""
    length = q.shape[-2]
    if sums.shape[-1] == 1:
        return (q @ k.mT).mul_(_between(sums))
    if length == 1:
        return (q * k).sum(-1, keepdim=True)
    q, k, sums, later, earlier = _halves(q, k, sums)
    scores = q.new_zeros(*q.shape[:-3], 2, length // 2, 2, length // 2)
    inner = _scores(q, k, sums)
    scores[..., 0, :, 0, :], scores[..., 1, :, 1, :] = inner[..., 0, :, :], inner[..., 1, :, :]
    scores[..., 1, :, 0, :] = (q[..., 1, :, :] * later) @ (k[..., 0, :, :] * earlier).mT
    return scores.flatten(-2).flatten(-3, -2)


def _scores_back(q: Tensor, k: Tensor, sums: Tensor, d_scores: Tensor) -> tuple[Tensor, Tensor]:
    """What A gives to the gradients of q and k."""
    length = q.shape[-2]
    if sums.shape[-1] == 1:
        d_scores = d_scores * _between(sums)
        return d_scores @ k, d_scores.mT @ q
    if length == 1:
        return d_scores * k, d_scores * q
    q, k, sums, later, earlier = _halves(q, k, sums)
    blocks = torch.unflatten(torch.unflatten(d_scores, -1, (2, length // 2)), -3, (2, length // 2))
    across = blocks[..., 1, :, 0, :]
    dq, dk = _scores_back(q, k, sums, torch.stack((blocks[..., 0, :, 0, :], blocks[..., 1, :, 1, :]), dim=-3))
    dq[..., 1, :, :].addcmul_(across @ (k[..., 0, :, :] * earlier), later)
    dk[..., 0, :, :].addcmul_(across.mT @ (q[..., 1, :, :] * later), earlier)
    return dq.flatten(-3, -2), dk.flatten(-3, -2)


def _halves(q: Tensor, k: Tensor, sums: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    """q, k and sums [..., 2, L/2, K], and the decays from the border into the later half and up to it."""
    q, k, sums = (torch.unflatten(x, -2, (2, -1)) for x in (q, k, sums))
    border = sums[..., 0, -1:, :]
    return q, k, sums, (sums[..., 1, :, :] - border).exp(), (border - sums[..., 0, :, :]).exp()
