"""The delta rule with a decay a key channel in plain PyTorch, a chunk of tokens at a time, with its gradients.

Inside a chunk, with G = cumsum(g), gl its last row, W = beta K and for any rows X the pairs
<X, W>_ij = sum_c x_ic exp(G_ic - G_jc) w_jc for j <= i: the errors E, what the state got wrong of V, solve
(I + strict_lower(<K, W>)) E = V - exp(G) K S; then O = scale exp(G) Q S + <scale Q, W> E and
S' = exp(gl) S + (exp(gl - G) W)^T E. Only what depends on S is a loop over chunks, forwards and backwards; the gradient
of the solve is -strict_lower(dV E^T), and of G it is q dq + k dk - w dw, a key's rows and columns of the pairs apart.

The pairs are found in one of two ways, whose exponents can never overflow:
- gentle, where no chunk decays below exp(-60): (exp(G) X) (exp(-G) W)^T. To look costs a wait for the device, so it is
  only done on a CPU, where it is free.
- halved: the later half of a block sees the earlier one through their border b, exp(G_i - G_b) exp(G_b - G_j), and each
  half is a block again.
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


def kimi_delta_rule(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    g: Tensor,
    beta: Tensor,
    *,
    scale: float | None = None,
    initial_state: Tensor | None = None,
    chunk: int = 32,
) -> tuple[Tensor, Tensor]:
    """Output [B, T, HV, V] in v's dtype and the final state [B, HV, K, V]; arguments as in `reference`.

    Computes in float32, or float64 for float64 inputs. Any T; `chunk`, a power of two, is how many tokens are worked on
    together.
    """
    batch, tokens, heads = v.shape[:3]
    exact = torch.promote_types(v.dtype, torch.float32)
    while chunk > 1 and chunk >= 2 * tokens:
        chunk //= 2
    scale = k.shape[-1] ** -0.5 if scale is None else scale
    groups = heads // k.shape[2]
    if groups > 1:
        q, k = q.repeat_interleave(groups, 2), k.repeat_interleave(groups, 2)
    decay = g.to(exact).clamp(min=LOWEST_LOG_DECAY)
    rows = [_chunks(x.to(exact), chunk) for x in (q * scale, k, v, decay, beta[..., None])]
    state = None if initial_state is None else initial_state.to(exact).flatten(0, 1)
    output, last = _Chunked.apply(*rows, state)  # type: ignore[no-untyped-call]
    output = output.view(batch, heads, -1, output.shape[-1])[:, :, :tokens].transpose(1, 2)
    return output.to(v.dtype), last.view(batch, heads, *last.shape[1:])


def _chunks(x: Tensor, chunk: int) -> Tensor:
    """[B, T, H, D] -> [B H, N, C, D]; the padding (zero k, beta and g) leaves the state as it is."""
    missing = -x.shape[1] % chunk
    if missing:
        x = pad(x, (0, 0, 0, 0, 0, missing))
    x = x.transpose(1, 2)
    return x.reshape(x.shape[0] * x.shape[1], -1, chunk, x.shape[3])


class _Chunked(torch.autograd.Function):
    """The rule on [X, N, C, D], X = B HV and N chunks of C tokens; q is scaled, beta is [X, N, C, 1]."""

    @staticmethod
    def forward(
        ctx: Any, q: Tensor, k: Tensor, v: Tensor, decay: Tensor, beta: Tensor, state: Tensor | None
    ) -> tuple[Tensor, Tensor]:
        """Output [X, N, C, V] and the state after the last chunk [X, K, V]."""
        sums = decay.cumsum(-2)
        rise, written = sums.exp(), beta * k
        fall = _fall(sums, rise)
        kept = written * _to_end(sums)
        scores, system = _pairs(torch.stack((q, k)), written, sums, fall)
        identity = torch.eye(sums.shape[-2], dtype=sums.dtype, device=sums.device)
        inverse = torch.linalg.solve_triangular(system.tril_(-1), identity, upper=False, unitriangular=True)
        erased = inverse @ (k * rise)
        befores, errors, last = _write(inverse @ v, erased, kept, rise[..., -1:, :].mT, state)
        output = (q * rise) @ befores + scores @ errors
        ctx.save_for_backward(q, k, beta, sums, rise, fall, scores, inverse, erased, kept, befores, errors)
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
    beta: Tensor,
    sums: Tensor,
    rise: Tensor,
    fall: Tensor | None,
    scores: Tensor,
    inverse: Tensor,
    erased: Tensor,
    kept: Tensor,
    befores: Tensor,
    errors: Tensor,
) -> tuple[Tensor, ...]:
    """Of q, k, v, the decay before it is summed, beta and the initial state; names as in the module's formulas."""
    end = rise[..., -1:, :]
    d_errors, d_afters, d_state = _write_backward(
        scores.mT @ d_output, (q * rise).mT @ d_output, erased, kept, end.mT, d_last
    )
    d_values = inverse.mT @ d_errors
    d_pairs = torch.stack((d_output @ errors.mT, -(d_values @ errors.mT).tril_(-1))).tril_()
    (d_q, row), column = _pairs_backward(torch.stack((q, k)), beta * k, sums, fall, d_pairs)
    d_q.addcmul_(d_output @ befores.mT, rise)
    row.addcmul_(d_values @ befores.mT, rise, value=-1.0)
    d_kept = errors @ d_afters.mT
    column.addcmul_(d_kept, _to_end(sums))
    d_sums = q * d_q + k * (row - beta * column)
    d_sums[..., -1, :] += (kept * d_kept).sum(-2) + end.squeeze(-2) * (befores * d_afters).sum(-1)
    d_decay = d_sums.flip(-2).cumsum_(-2).flip(-2)
    return d_q, row + beta * column, d_values, d_decay, (k * column).sum(-1, keepdim=True), d_state


def _fall(sums: Tensor, rise: Tensor) -> Tensor | None:
    """exp(-G), or none where it might overflow or where to look would cost a wait."""
    gentle = sums.device.type == "cpu" and bool((sums[..., -1, :] > GENTLE).all())
    return rise.reciprocal() if gentle else None


def _to_end(sums: Tensor) -> Tensor:
    """exp(gl - G)."""
    return (sums[..., -1:, :] - sums).exp_()


def _pairs(rows: Tensor, written: Tensor, sums: Tensor, fall: Tensor | None) -> Tensor:
    """<X, W> [2, X, N, C, C], lower triangular, for two kinds of rows stacked [2, X, N, C, K]."""
    if fall is not None:
        return ((rows * sums.exp()) @ (written * fall).mT).tril_()
    length = rows.shape[-2]
    if length == 1:
        return (rows * written).sum(-1, keepdim=True)
    rows, written, sums, later, earlier = _halves(rows, written, sums)
    pairs = rows.new_zeros(*rows.shape[:-3], 2, length // 2, 2, length // 2)
    inner = _pairs(rows, written, sums, None)
    pairs[..., 0, :, 0, :], pairs[..., 1, :, 1, :] = inner[..., 0, :, :], inner[..., 1, :, :]
    pairs[..., 1, :, 0, :] = (rows[..., 1, :, :] * later) @ (written[..., 0, :, :] * earlier).mT
    return pairs.flatten(-2).flatten(-3, -2)


def _pairs_backward(
    rows: Tensor, written: Tensor, sums: Tensor, fall: Tensor | None, d_pairs: Tensor
) -> tuple[Tensor, Tensor]:
    """What the gradient of the pairs gives to the rows [2, X, N, C, K] and to W [X, N, C, K]."""
    if fall is not None:
        rise = sums.exp()
        d_rows = (d_pairs @ (written * fall)).mul_(rise)
        return d_rows, (d_pairs.mT @ (rows * rise)).sum(0).mul_(fall)
    length = rows.shape[-2]
    if length == 1:
        return d_pairs * written, (d_pairs * rows).sum(0)
    rows, written, sums, later, earlier = _halves(rows, written, sums)
    blocks = torch.unflatten(torch.unflatten(d_pairs, -1, (2, length // 2)), -3, (2, length // 2))
    across = blocks[..., 1, :, 0, :]
    inner = torch.stack((blocks[..., 0, :, 0, :], blocks[..., 1, :, 1, :]), dim=-3)
    d_rows, d_written = _pairs_backward(rows, written, sums, None, inner)
    d_rows[..., 1, :, :].addcmul_(across @ (written[..., 0, :, :] * earlier), later)
    d_written[..., 0, :, :].addcmul_((across.mT @ (rows[..., 1, :, :] * later)).sum(0), earlier)
    return d_rows.flatten(-3, -2), d_written.flatten(-3, -2)


def _halves(rows: Tensor, written: Tensor, sums: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    """The three [..., 2, L/2, K], and the decays from the border into the later half and up to it."""
    rows, written, sums = (torch.unflatten(x, -2, (2, -1)) for x in (rows, written, sums))
    border = sums[..., 0, -1:, :]
    return rows, written, sums, (sums[..., 1, :, :] - border).exp(), (border - sums[..., 0, :, :]).exp()


def _write(
    solved: Tensor, erased: Tensor, kept: Tensor, end: Tensor, state: Tensor | None
) -> tuple[Tensor, Tensor, Tensor]:
    """The states before each chunk [X, N, K, V], the errors [X, N, C, V] and the state after the last chunk."""
    befores = solved.new_empty(*kept.shape[:2], kept.shape[-1], solved.shape[-1])
    errors = torch.empty_like(solved)
    now = solved.new_zeros(kept.shape[0], *befores.shape[2:]) if state is None else state
    for n in range(kept.shape[1]):
        befores[:, n] = now
        errors[:, n] = torch.baddbmm(solved[:, n], erased[:, n], now, alpha=-1.0)
        now = torch.baddbmm(end[:, n] * now, kept[:, n].mT, errors[:, n])
    return befores, errors, now


def _write_backward(
    d_errors: Tensor, d_read: Tensor, erased: Tensor, kept: Tensor, end: Tensor, d_last: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """dE, the gradients of the states after each chunk [X, N, K, V] and of the initial state; adds to `d_errors`."""
    d_afters, now = torch.empty_like(d_read), d_last
    for n in reversed(range(kept.shape[1])):
        d_afters[:, n] = now
        d_errors[:, n].baddbmm_(kept[:, n], now)
        now = torch.baddbmm(end[:, n] * now + d_read[:, n], erased[:, n].mT, d_errors[:, n], alpha=-1.0)
    return d_errors, d_afters, now
