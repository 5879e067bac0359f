"""Token routing in plain PyTorch, many chunks at a time: no host sync and no shape that depends on data.

Both branches carry their own backward pass, because the gradient of the route is a by-product of theirs: in the softmax
a column sum of dS (the gradient of the scores), in the linear branch the product of a chunk's net write with the
gradient of the state after it. What is saved for it is the inputs, the softmax weights and the chunk states.

Linear branch, per chunk, with gc = cumsum(g), M_ij = exp(gc_i - gc_j) for i >= j, gl the chunk's last gc, S the state
before it and m = 1 for linear-typed chunks, 0 for the others (WY form: 2406.06484, 2412.06464):
U = (I + strict_lower(beta_i k_i.k_j M_ij))^-1 beta (V - exp(gc) K S), O = exp(gc) Q S + tril(Q K^T M) U,
S' = d S + m (exp(gl - gc) K)^T U, where d = exp(gl), or 1 after a softmax-typed chunk without `decay_through`.
"""

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn.functional import pad

from hybridsearch.kernels.token_routing.reference import LinearState, OwnChunk

LOWEST_LOG_DECAY = -100.0
"""A log decay below this counts as this (exp(-100) = 4e-44), so that even -inf leaves the sums in a chunk exact."""

CPU_ROWS, OTHER_ROWS = 32, 128
"""Least queries of one softmax block: on one core 32 to 64 rows of scores stay in the cache and 128 take twice as long;
elsewhere few launches matter more."""


KEPT_TOKENS = 1024
"""Longest sequence whose softmax weights are kept for the backward pass; at 4096 they would take 32 MiB a head."""


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

    Arguments as in `reference`; differentiable once. Computes in float32, or float64 for float64 inputs.
    """
    softmax_out = softmax_branch(q, k, v, route[..., 0], chunk=chunk, own_chunk=own_chunk, scale=scale)
    linear_out, state = linear_branch(
        linear_q,
        linear_k,
        linear_v,
        g,
        beta,
        route[..., 1],
        chunk=chunk,
        reads_own=own_chunk != "softmax",
        decay_through=decay_through,
        scale=linear_scale,
        initial_state=initial_state,
    )
    return softmax_out, linear_out, state


def softmax_branch(
    q: Tensor, k: Tensor, v: Tensor, gate: Tensor, *, chunk: int, own_chunk: OwnChunk, scale: float | None = None
) -> Tensor:
    """[B, T, A, Va] in v's dtype; `gate` [B, N, H] is 1 for softmax-typed chunks, 0 for the others."""
    exact = torch.promote_types(v.dtype, torch.float32)
    batch, _, heads, size = q.shape
    scale = size**-0.5 if scale is None else scale
    rows = [x.to(exact).transpose(1, 2).flatten(0, 1) for x in (q * scale, k, v)]
    shared = gate.to(exact).transpose(1, 2).repeat_interleave(heads // gate.shape[2], 1).flatten(0, 1)
    o = _RoutedSoftmax.apply(*rows, shared, chunk, own_chunk != "linear")  # type: ignore[no-untyped-call]
    return _tokens(o, batch, heads).to(v.dtype)


def linear_branch(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    g: Tensor | None,
    beta: Tensor,
    gate: Tensor,
    *,
    chunk: int,
    reads_own: bool,
    decay_through: bool,
    scale: float | None = None,
    initial_state: Tensor | None = None,
) -> tuple[Tensor, LinearState]:
    """[B, T, H, V] in v's dtype and the state; `gate` [B, N, H] is 1 for linear-typed chunks, 0 for the others."""
    exact = torch.promote_types(v.dtype, torch.float32)
    batch, tokens, heads, size = q.shape
    scale = size**-0.5 if scale is None else scale
    decays = None if g is None else _chunks(g.to(exact).clamp(min=LOWEST_LOG_DECAY), chunk).cumsum(-1)
    open_tokens = tokens % chunk
    gate = gate.to(exact).transpose(1, 2).flatten(0, 1)
    if open_tokens:
        gate = torch.cat((gate, gate.new_ones(gate.shape[0], 1)), 1)
    shape = (batch, heads, size, v.shape[3])
    state = k.new_zeros(shape, dtype=exact) if initial_state is None else initial_state.to(exact)
    q, k, values, beta = (_chunks(x.to(exact), chunk) for x in (q * scale, k, v, beta))
    o, before, after = _RoutedDelta.apply(  # type: ignore[no-untyped-call]
        q, k, values, decays, beta, gate, state.flatten(0, 1), reads_own, decay_through
    )
    running: Tensor = after.view(shape)
    entering = before.view(shape) if open_tokens else running
    if open_tokens and decays is not None:
        decay = decays[:, -1, -1].exp().view(batch, heads)
    else:
        decay = running.new_ones(batch, heads)
    return _tokens(o.flatten(1, 2)[:, :tokens], batch, heads).to(v.dtype), LinearState(entering, running, decay)


def _tokens(rows: Tensor, batch: int, heads: int) -> Tensor:
    """[B H, T, D] -> [B, T, H, D]."""
    return rows.view(batch, heads, *rows.shape[1:]).transpose(1, 2)


def _chunks(x: Tensor, chunk: int) -> Tensor:
    """[B, T, H, ...] -> [B H, chunks, C, ...]; the padding (zero k, beta and g) leaves the state as it is."""
    missing = -x.shape[1] % chunk
    if missing:
        x = pad(x, [0, 0] * (x.dim() - 2) + [0, missing])
    batch, tokens, heads = x.shape[:3]
    split = x.reshape(batch, tokens // chunk, chunk, heads, *x.shape[3:])
    return split.movedim(3, 1).flatten(0, 1)


def _without_autocast(gradient: Tensor) -> torch.autocast:
    """What was saved is exact, so a backward pass inside an autocast context must not mix it with rounded products."""
    return torch.autocast(gradient.device.type, enabled=False)


class _RoutedSoftmax(torch.autograd.Function):
    """Causal softmax over own chunk and softmax-typed chunks, a block of query rows at a time."""

    @staticmethod
    def forward(ctx: Any, q: Tensor, k: Tensor, v: Tensor, gate: Tensor, chunk: int, reads_own: bool) -> Tensor:
        """q (scaled), k [R, T, Ka], v [R, T, Va], gate [R, N]; R = B A."""
        typed = gate > 0.5
        o = torch.empty_like(v)
        kept = []
        for start, stop in _row_blocks(q, chunk):
            weight = _weight(q, k, typed, (start, stop), chunk, reads_own)
            o[:, start:stop] = torch.bmm(weight, v[:, :stop])
            if q.shape[1] <= KEPT_TOKENS:
                kept.append(weight)
        ctx.save_for_backward(q, k, v, typed, o, *kept)
        ctx.chunk, ctx.reads_own = chunk, reads_own
        return o

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, do: Tensor) -> tuple[Tensor | None, ...]:
        """Gradients of q, k, v and the gate."""
        with _without_autocast(do):
            return _RoutedSoftmax._gradients(ctx, do)

    @staticmethod
    def _gradients(ctx: Any, do: Tensor) -> tuple[Tensor | None, ...]:
        q, k, v, typed, o, *kept = ctx.saved_tensors
        chunk, tokens = ctx.chunk, q.shape[1]
        do = do.contiguous()
        delta = (do * o).sum(-1, keepdim=True)
        dq, dk, dv = torch.empty_like(q), torch.zeros_like(k), torch.zeros_like(v)
        columns = q.new_zeros(q.shape[0], tokens)
        for index, (start, stop) in enumerate(_row_blocks(q, chunk)):
            weight = kept[index] if kept else _weight(q, k, typed, (start, stop), chunk, ctx.reads_own)
            dv[:, :stop].baddbmm_(weight.mT, do[:, start:stop])
            ds = torch.baddbmm(delta[:, start:stop], do[:, start:stop], v[:, :stop].mT, beta=-1.0).mul_(weight)
            dq[:, start:stop] = torch.bmm(ds, k[:, :stop])
            dk[:, :stop].baddbmm_(ds.mT, q[:, start:stop])
            columns[:, :start] += ds[:, :, :start].sum(1)
            for first in range(start + chunk, stop, chunk):  # chunks that are earlier than some rows of this block only
                columns[:, start:first] += ds[:, first - start : first - start + chunk, start:first].sum(1)
        complete = typed.shape[1] * chunk
        dgate = columns[:, :complete].unflatten(1, (-1, chunk)).sum(2) * typed
        return dq, dk, dv, dgate, None, None


def _row_blocks(q: Tensor, chunk: int) -> list[tuple[int, int]]:
    tokens = q.shape[1]
    rows = chunk * max(1, (CPU_ROWS if q.device.type == "cpu" else OTHER_ROWS) // chunk)
    return [(start, min(start + rows, tokens)) for start in range(0, tokens, rows)]


def _weight(q: Tensor, k: Tensor, typed: Tensor, block: tuple[int, int], chunk: int, reads_own: bool) -> Tensor:
    """[R, rows, stop]: the softmax of one block of query rows; zeros for a row that sees no key."""
    start, stop = block
    scores = torch.bmm(q[:, start:stop], k[:, :stop].mT)
    hidden = _hidden(typed, start, stop, chunk, reads_own)
    # The lowest finite value instead of -inf: a row without any key is uniform then, and is zeroed below.
    weight = scores.masked_fill_(hidden, torch.finfo(scores.dtype).min).softmax(-1)
    return weight if reads_own else weight.masked_fill_(hidden, 0.0)


def _hidden(typed: Tensor, start: int, stop: int, chunk: int, reads_own: bool) -> Tensor:
    """[R, rows, stop] or [R, 1, stop], broadcastable over rows: keys that rows start..stop do not see."""
    keys = torch.arange(stop, device=typed.device)
    queries = keys[start:, None]
    earlier = keys // chunk < queries // chunk
    own = (keys // chunk == queries // chunk) & (keys <= queries) if reads_own else torch.zeros_like(earlier)
    known = min(typed.shape[1], -(-stop // chunk))
    of_key = pad(typed[:, :known].repeat_interleave(chunk, 1), [0, max(stop - known * chunk, 0)])[:, None, :stop]
    return ~(own | (earlier & of_key))


class _RoutedDelta(torch.autograd.Function):
    """The gated delta rule whose state only linear-typed chunks write; formulas above on [R, N, C, ...]; R = B H."""

    @staticmethod
    def forward(
        ctx: Any,
        q: Tensor,
        k: Tensor,
        v: Tensor,
        decays: Tensor | None,
        beta: Tensor,
        gate: Tensor,
        state: Tensor,
        reads_own: bool,
        decay_through: bool,
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Output [R, N, C, V], the state before the last chunk and the one after it.

        q (scaled), k [R, N, C, K], v [R, N, C, V], decays (summed within a chunk) and beta [R, N, C], gate [R, N],
        state [R, K, V].
        """
        linear = (gate > 0.5).to(q.dtype)
        within = _within(decays)
        written = beta[..., None] * k
        inverse = _inverse(_damp_(written @ k.mT, within, -1))
        rest, read, kept = beta[..., None] * v, _read(written, decays), _keep(k, decays, linear)
        left = _left(decays, linear, decay_through)
        befores = q.new_empty(*k.shape[:2], k.shape[-1], v.shape[-1])
        writes = torch.empty_like(v)
        now = state
        for n in range(v.shape[1]):
            befores[:, n] = now
            writes[:, n] = inverse[:, n] @ torch.baddbmm(rest[:, n], read[:, n], now, alpha=-1.0)
            now = torch.baddbmm(now if left is None else left[:, n] * now, kept[:, n].mT, writes[:, n])
        o = _read(q, decays) @ befores
        scores = _damp_(q @ k.mT, within, 0) if reads_own else None
        if scores is not None:
            o += scores @ writes
        ctx.save_for_backward(q, k, v, decays, beta, linear, within, scores, inverse, befores, writes)
        ctx.decay_through = decay_through
        return o, befores[:, -1].clone(), now

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, do: Tensor, d_before: Tensor, d_after: Tensor) -> tuple[Tensor | None, ...]:
        """Gradients of q, k, v, the summed decays, beta, the gate and the state."""
        with _without_autocast(do):
            return _RoutedDelta._gradients(ctx, do, d_before, d_after)

    @staticmethod
    def _gradients(ctx: Any, do: Tensor, d_before: Tensor, d_after: Tensor) -> tuple[Tensor | None, ...]:
        q, k, v, decays, beta, linear, within, scores, inverse, befores, writes = ctx.saved_tensors
        written, kept = beta[..., None] * k, _keep(k, decays, linear)
        left = _left(decays, linear, ctx.decay_through)
        read = _read(written, decays)
        d_read = _read(q, decays).mT @ do
        d_writes = torch.zeros_like(v) if scores is None else scores.mT @ do
        d_rest, d_afters, now = torch.empty_like(v), torch.empty_like(befores), d_after
        for n in reversed(range(v.shape[1])):
            d_afters[:, n] = now
            d_rest[:, n] = inverse[:, n].mT @ torch.baddbmm(d_writes[:, n], kept[:, n], now)
            through = d_read[:, n] + (now if left is None else left[:, n] * now)
            now = torch.baddbmm(through, read[:, n].mT, d_rest[:, n], alpha=-1.0)
            if n == v.shape[1] - 1:
                now = now + d_before
        d_system = _damp_(d_rest @ writes.mT, within, -1)
        dq = _read(do @ befores.mT, decays)
        # k stands in a row and in a column of the system, and in the update of the state; beta multiplies its rows.
        row = _read(d_rest @ befores.mT, decays).add_(d_system @ k).neg_()
        d_kept = _keep(writes @ d_afters.mT, decays, linear)
        column = d_kept - d_system.mT @ written
        if scores is not None:
            d_scores = _damp_(do @ writes.mT, within, 0)
            dq += d_scores @ k
            column += d_scores.mT @ q
        d_beta = (d_rest * v).sum(-1) + (k * row).sum(-1)
        row *= beta[..., None]
        # A chunk's net write times the gradient of the state after it; 0 for chunks that were not typed linear.
        d_gate = (k * d_kept).sum((-1, -2))
        d_decays = None
        if decays is not None:
            d_decays = (q * dq + k * (row - column)).sum(-1)
            d_left = (befores * d_afters).sum((-1, -2)) * decays[..., -1].exp()
            d_decays[..., -1] += d_gate + (d_left if ctx.decay_through else d_left * linear)
        return dq, row + column, beta[..., None] * d_rest, d_decays, d_beta, d_gate, now, None, None


def _within(decays: Tensor | None) -> Tensor | None:
    """M [R, N, C, C]; zero above the diagonal, where the exponential (thrice as fast without -inf) may overflow."""
    return None if decays is None else (decays[..., :, None] - decays[..., None, :]).exp_().tril_()


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


def _read(rows: Tensor, decays: Tensor | None) -> Tensor:
    """Rows that meet the state of the chunk's start: times exp(gc)."""
    return rows if decays is None else rows * decays.exp()[..., None]


def _keep(rows: Tensor, decays: Tensor | None, linear: Tensor) -> Tensor:
    """Rows that enter the state of the chunk's end: times m exp(gl - gc)."""
    factor = linear[..., None] if decays is None else linear[..., None] * (decays[..., -1:] - decays).exp()
    return rows * factor[..., None]


def _left(decays: Tensor | None, linear: Tensor, decay_through: bool) -> Tensor | None:
    """d [R, N, 1, 1], the factor of the state over a chunk; none for 1."""
    if decays is None:
        return None
    last = decays[..., -1].exp()
    return (last if decay_through else torch.where(linear > 0.5, last, 1.0))[..., None, None]
