"""The gated delta rule in plain PyTorch, a chunk of tokens at a time, with its gradients; on any device.

Inside a chunk, with gc = cumsum(g) and M_ij = exp(gc_i - gc_j) for i >= j, the writes U solve one unitriangular
system, (I + strict_lower(beta_i k_i.k_j M_ij)) U = beta (V - exp(gc) K S); then
O = scale exp(gc) Q S + tril(scale Q K^T M) U and S' = exp(gl) S + (exp(gl - gc) K)^T U, where gl is the chunk's last gc
(WY form: Yang et al., 2406.06484 and 2412.06464).
Only what depends on S is a loop over chunks, forwards and backwards. The backward pass needs no gradient of the solve:
with dR = (I + L)^-T dU, the gradient of L is -strict_lower(dR U^T).
"""

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn.functional import pad

LOWEST_LOG_DECAY = -100.0
"""A log decay below this counts as this (exp(-100) = 4e-44), so that even -inf leaves the sums in a chunk exact."""


def gated_delta_rule(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    g: Tensor | None,
    beta: Tensor,
    *,
    scale: float | None = None,
    initial_state: Tensor | None = None,
    chunk: int = 32,
) -> tuple[Tensor, Tensor]:
    """Output [B, T, HV, V] in v's dtype and the final state [B, HV, K, V]; arguments as in `reference`.

    Computes in float32, or float64 for float64 inputs. Any T; `chunk` tokens are worked on together (one core, B32 T128
    H2, forward and backward: K = V = 16 takes 8.5, 9.1, 13.8 ms with chunks of 16, 32, 64; K = V = 32 15, 16, 21 ms).
    """
    batch, tokens, heads = v.shape[:3]
    chunk = max(1, min(chunk, tokens))
    exact = torch.promote_types(v.dtype, torch.float32)
    scale = k.shape[-1] ** -0.5 if scale is None else scale
    groups = heads // k.shape[2]
    if groups > 1:
        q, k = q.repeat_interleave(groups, 2), k.repeat_interleave(groups, 2)
    rows = [_chunks(x.to(exact), chunk) for x in (q * scale, k, v, beta)]
    decay = None if g is None else _chunks(g.to(exact).clamp(min=LOWEST_LOG_DECAY), chunk)
    state = None if initial_state is None else initial_state.to(exact).flatten(0, 1)
    output, last = _Chunked.apply(*rows, decay, state)  # type: ignore[no-untyped-call]
    output = output.view(batch, heads, -1, output.shape[-1])[:, :, :tokens].transpose(1, 2)
    return output.to(v.dtype), last.view(batch, heads, *last.shape[1:])


def _chunks(x: Tensor, chunk: int) -> Tensor:
    """[B, T, H, ...] -> [B H, N, C, ...]; the padding (zero k, beta and g) leaves the state as it is."""
    missing = -x.shape[1] % chunk
    if missing:
        x = pad(x, [0, 0] * (x.dim() - 2) + [0, missing])
    batch, tokens, heads = x.shape[:3]
    split = x.reshape(batch, tokens // chunk, chunk, heads, *x.shape[3:]).movedim(3, 1)
    return split.reshape(batch * heads, tokens // chunk, chunk, *x.shape[3:]).contiguous()


class _Chunked(torch.autograd.Function):
    """The rule on [X, N, C, ...], X = B HV and N chunks of C tokens; q is scaled, the decay is summed in here."""

    @staticmethod
    def forward(
        ctx: Any, q: Tensor, k: Tensor, v: Tensor, beta: Tensor, decay: Tensor | None, state: Tensor | None
    ) -> tuple[Tensor, Tensor]:
        """Output [X, N, C, V] and the state after the last chunk [X, K, V]."""
        decay = None if decay is None else decay.cumsum(-1)
        within = _within(decay)
        scores = _damp_(_product(q, k.mT), within, 0)
        inverse = _inverse(_damp_(_product(beta[..., None] * k, k.mT), within, -1))
        befores, writes, last = _write(k, v, beta, decay, inverse, state)
        output = _add_product_(_product(_read(q, decay), befores), scores, writes)
        ctx.save_for_backward(q, k, v, beta, decay, within, scores, inverse, befores, writes)
        ctx.stateful = state is not None
        return output, last

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, d_output: Tensor, d_last: Tensor) -> tuple[Tensor | None, ...]:
        """Gradients of the six inputs."""
        # What was saved is exact: a backward pass inside an autocast context must not mix it with rounded products.
        with torch.autocast(d_output.device.type, enabled=False):
            *gradients, d_state = _gradients(d_output.contiguous(), d_last, *ctx.saved_tensors)
        return *gradients, d_state if ctx.stateful else None


def _gradients(
    d_output: Tensor,
    d_last: Tensor,
    q: Tensor,
    k: Tensor,
    v: Tensor,
    beta: Tensor,
    decay: Tensor | None,
    within: Tensor | None,
    scores: Tensor,
    inverse: Tensor,
    befores: Tensor,
    writes: Tensor,
) -> tuple[Tensor | None, ...]:
    """Of q, k, v, beta, the decay before it is summed, and the initial state; names as in the module's formulas."""
    d_rest, d_afters, d_state = _write_backward(q, k, beta, decay, scores, inverse, d_output, d_last)
    d_scores = _damp_(_product(d_output, writes.mT), within, 0)
    d_system = _damp_(_product(d_rest, writes.mT), within, -1).neg_()
    d_q = _add_product_(_read(_product(d_output, befores.mT), decay), d_scores, k)
    # k stands in a row and in a column of the system, and in the update of the state; beta multiplies its rows
    row = _product(d_system, k) - _read(_product(d_rest, befores.mT), decay)
    k_row = beta[..., None] * row
    kept = _keep(_product(writes, d_afters.mT), decay)
    column = _product(d_scores.mT, q)
    _add_product_(column, d_system.mT, beta[..., None] * k)
    d_beta = (d_rest * v).sum(-1) + (k * row).sum(-1)
    column += kept
    d_decay = None
    if decay is not None:
        d_decay = (q * d_q + k * (k_row - column)).sum(-1)
        d_end = (befores * d_afters).sum((-1, -2)) * decay[..., -1].exp()
        d_decay[..., -1] += d_end + (k * kept).sum((-1, -2))
        d_decay = d_decay.flip(-1).cumsum(-1).flip(-1)
    return d_q, column + k_row, beta[..., None] * d_rest, d_beta, d_decay, d_state


def _within(decay: Tensor | None) -> Tensor | None:
    """M [X, N, C, C]: what is left at a row's token of what stood at a column's; zero above the diagonal."""
    if decay is None:
        return None
    ahead = torch.ones(decay.shape[-1], decay.shape[-1], dtype=torch.bool, device=decay.device).triu(1)
    return (decay[..., :, None] - decay[..., None, :]).masked_fill_(ahead, -torch.inf).exp_()


def _damp_(products: Tensor, within: Tensor | None, diagonal: int) -> Tensor:
    """Multiplies by M in place and clears what stands above the diagonal (or, with -1, on it too)."""
    if within is not None:
        products *= within
        return products if diagonal == 0 else products.tril_(diagonal)
    return products.tril_(diagonal)


def _inverse(system: Tensor) -> Tensor:
    """(I + L)^-1."""
    identity = torch.eye(system.shape[-1], dtype=system.dtype, device=system.device)
    solved: Tensor = torch.linalg.solve_triangular(system, identity, upper=False, unitriangular=True)
    return solved


def _read(rows: Tensor, decay: Tensor | None) -> Tensor:
    """Rows that meet the state of the chunk's start: times exp(gc)."""
    return rows if decay is None else rows * decay.exp()[..., None]


def _keep(rows: Tensor, decay: Tensor | None) -> Tensor:
    """Rows that enter the state of the chunk's end: times exp(gl - gc)."""
    return rows if decay is None else rows * (decay[..., -1:] - decay).exp()[..., None]


def _product(a: Tensor, b: Tensor) -> Tensor:
    return torch.bmm(a.flatten(0, 1), b.flatten(0, 1)).view(*a.shape[:3], b.shape[-1])


def _add_product_(out: Tensor, a: Tensor, b: Tensor) -> Tensor:
    out.view(-1, *out.shape[2:]).baddbmm_(a.flatten(0, 1), b.flatten(0, 1))
    return out


def _write(
    k: Tensor, v: Tensor, beta: Tensor, decay: Tensor | None, inverse: Tensor, state: Tensor | None
) -> tuple[Tensor, Tensor, Tensor]:
    """The states before each chunk [X, N, K, V], the writes U [X, N, C, V] and the state after the last chunk."""
    rest = beta[..., None] * v
    read, kept = _read(beta[..., None] * k, decay), _keep(k, decay)
    befores = rest.new_empty(*k.shape[:2], k.shape[-1], v.shape[-1])
    writes = torch.empty_like(rest)
    now = rest.new_zeros(k.shape[0], k.shape[-1], v.shape[-1]) if state is None else state
    for n in range(k.shape[1]):
        befores[:, n] = now
        writes[:, n] = inverse[:, n] @ torch.baddbmm(rest[:, n], read[:, n], now, alpha=-1.0)
        left = now if decay is None else now * decay[:, n, -1].exp()[:, None, None]
        now = torch.baddbmm(left, kept[:, n].mT, writes[:, n])
    return befores, writes, now


def _write_backward(
    q: Tensor,
    k: Tensor,
    beta: Tensor,
    decay: Tensor | None,
    scores: Tensor,
    inverse: Tensor,
    d_output: Tensor,
    d_last: Tensor,
) -> tuple[Tensor, Tensor, Tensor]:
    """dR [X, N, C, V], the gradients of the states after each chunk [X, N, K, V] and of the initial state."""
    d_writes, d_read = _product(scores.mT, d_output), _product(_read(q, decay).mT, d_output)
    read, kept = _read(beta[..., None] * k, decay), _keep(k, decay)
    d_rest, d_afters, now = torch.empty_like(d_writes), torch.empty_like(d_read), d_last
    for n in reversed(range(k.shape[1])):
        d_afters[:, n] = now
        d_rest[:, n] = inverse[:, n].mT @ torch.baddbmm(d_writes[:, n], kept[:, n], now)
        left = now if decay is None else now * decay[:, n, -1].exp()[:, None, None]
        now = torch.baddbmm(left + d_read[:, n], read[:, n].mT, d_rest[:, n], alpha=-1.0)
    return d_rest, d_afters, now
