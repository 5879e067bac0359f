"""The gated delta rule in plain PyTorch, a chunk of tokens at a time; differentiable by autograd, on any device.

Inside a chunk, with gc = cumsum(g) and M_ij = exp(gc_i - gc_j) for i >= j, the writes U solve one unitriangular
system, (I + strict_lower(beta_i k_i.k_j M_ij)) U = beta (V - exp(gc) K S); then
O = scale exp(gc) Q S + tril(scale Q K^T M) U and S' = exp(gl) S + (exp(gl - gc) K)^T U, where gl is the chunk's last gc
(WY form: Yang et al., 2406.06484 and 2412.06464).
All chunks are solved at once; only what depends on S is a loop.
"""

import torch
from torch import Tensor
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
    chunk: int = 64,
) -> tuple[Tensor, Tensor]:
    """Output [B, T, HV, V] in v's dtype and the final state [B, HV, K, V]; arguments as in `reference`.

    Computes in float32, or float64 for float64 inputs. Any T; `chunk` tokens are worked on together.
    """
    tokens = v.shape[1]
    chunk = max(1, min(chunk, tokens))
    exact = torch.promote_types(v.dtype, torch.float32)
    scale = k.shape[-1] ** -0.5 if scale is None else scale
    heads = k.shape[2]
    q, k, v_, beta_ = (_chunks(x.to(exact), chunk, heads) for x in (q, k, v, beta))
    decays = None if g is None else _chunks(g.to(exact).clamp(min=LOWEST_LOG_DECAY), chunk, heads).cumsum(-1)
    state = None if initial_state is None else initial_state.to(exact).unflatten(1, (heads, -1))
    o, state = _run(q * scale, k, v_, decays, beta_, state)
    return o.movedim(4, 1).movedim(4, 1).flatten(1, 2)[:, :tokens].flatten(2, 3).to(v.dtype), state.flatten(1, 2)


def _chunks(x: Tensor, chunk: int, heads: int) -> Tensor:
    """[B, T, H R, ...] -> [B, H, R, N, C, ...]; the padding (zero k, beta and g) leaves the state as it is."""
    missing = -x.shape[1] % chunk
    if missing:
        x = pad(x, [0, 0] * (x.dim() - 2) + [0, missing])
    x = x.unflatten(2, (heads, -1)).unflatten(1, (-1, chunk))
    return x.movedim((3, 4), (1, 2))


def _run(
    q: Tensor, k: Tensor, v: Tensor, decays: Tensor | None, beta: Tensor, state: Tensor | None
) -> tuple[Tensor, Tensor]:
    """Outputs [B, H, R, N, C, V] and the state after the last chunk; q is scaled, `decays` are summed in each chunk."""
    chunk = k.shape[-2]
    k_written = beta[..., None] * k
    if decays is None:
        scores, system = (q @ k.mT).tril(), k_written @ k.mT
        k_read, k_kept, last = k_written, k, None
    else:
        ahead = torch.ones(chunk, chunk, dtype=torch.bool, device=k.device).triu(1)
        between = (decays[..., :, None] - decays[..., None, :]).masked_fill(ahead, -torch.inf).exp()
        scores, system = (q @ k.mT) * between, (k_written @ k.mT) * between
        grown = decays.exp()[..., None]
        q, k_read = q * grown, k_written * grown
        last = decays[..., -1:, None]
        k_kept, last = k * (last - decays[..., None]).exp(), last.exp()
    v = beta[..., None] * v
    reads = v.shape[3] > 1 or state is not None
    # The system is lower triangular with a unit diagonal: what stands on and above the diagonal is not read.
    solved = torch.linalg.solve_triangular(
        system, torch.cat((v, k_read), -1) if reads else v, upper=False, unitriangular=True
    )
    writes, erased = solved[..., : v.shape[-1]], solved[..., v.shape[-1] :]
    if not reads:
        return scores @ writes, (k_kept.mT @ writes)[:, :, :, 0]
    return _carry(q, k_kept, writes, erased, scores, last, state)


def _carry(
    q: Tensor, k_kept: Tensor, writes: Tensor, erased: Tensor, scores: Tensor, last: Tensor | None, state: Tensor | None
) -> tuple[Tensor, Tensor]:
    """The loop over chunks: each reads the state that the one before left."""
    befores, corrected = [], []
    if state is None:
        state = writes.new_zeros(*writes.shape[:3], k_kept.shape[-1], writes.shape[-1])
    for n in range(writes.shape[3]):
        befores.append(state)
        write = writes[:, :, :, n] - erased[:, :, :, n] @ state
        corrected.append(write)
        kept = state if last is None else state * last[:, :, :, n]
        state = kept + k_kept[:, :, :, n].mT @ write
    return q @ torch.stack(befores, 3) + scores @ torch.stack(corrected, 3), state
