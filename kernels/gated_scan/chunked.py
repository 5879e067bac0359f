"""The elementwise gated scan in plain PyTorch with its gradients, on any device.

T tokens are N chunks of C, both about sqrt(T): C steps run in all chunks at once, from nothing; N steps carry the state
from chunk to chunk; and a chunk's tokens add what its first state has become by then. Only decays are ever multiplied
together, never divided by, so no decay is too strong.

Backwards, with u_t = exp(g_t) dh_t: dh_t = do_t + u_{t+1} is the same scan from the end, dx_t = dh_t and
dg_t = h_{t-1} u_t.
"""

import math
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn.functional import pad


def gated_scan(x: Tensor, g: Tensor, *, initial_state: Tensor | None = None, chunk: int = 0) -> tuple[Tensor, Tensor]:
    """Output h [B, T, D] in x's dtype and the final state [B, D]; arguments as in `reference`.

    Computes in float32, or float64 for float64 inputs. Any T; `chunk`, the tokens worked on one after another, follows
    from T if 0.
    """
    exact = torch.promote_types(x.dtype, torch.float32)
    state = None if initial_state is None else initial_state.to(exact)
    h = _Chunked.apply(x.to(exact), g.to(exact), state, chunk or math.isqrt(x.shape[1] - 1) + 1)  # type: ignore[no-untyped-call]
    return h.to(x.dtype), h[:, -1]


class _Chunked(torch.autograd.Function):
    """The scan, all in one dtype."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, g: Tensor, state: Tensor | None, chunk: int) -> Tensor:
        decay = g.exp()
        h = _scan(x, decay, state, chunk)
        ctx.save_for_backward(decay, h, state)
        ctx.chunk = chunk
        return h

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, do: Tensor) -> tuple[Tensor | None, ...]:
        """Gradients of x, g and the first state."""
        decay, h, state = ctx.saved_tensors
        later = pad(decay[:, 1:], (0, 0, 0, 1))  # what dh_t gets of dh_{t+1}
        dx = _scan(do.flip(1), later.flip(1), None, ctx.chunk).flip(1)
        u = decay * dx
        first = torch.zeros_like(h[:, :1]) if state is None else state.unsqueeze(1)
        return dx, u * torch.cat((first, h[:, :-1]), 1), None if state is None else u[:, 0], None


def _scan(x: Tensor, decay: Tensor, state: Tensor | None, chunk: int) -> Tensor:
    """h_t = decay_t h_{t-1} + x_t on [B, T, D]."""
    batch, tokens, channels = x.shape
    missing = -tokens % chunk
    if missing:
        x, decay = pad(x, (0, 0, 0, missing)), pad(decay, (0, 0, 0, missing))
    h = x.reshape(batch, -1, chunk, channels).clone()
    decay = decay.reshape(h.shape)
    left = decay.clone()  # of a chunk's first state, after each token
    for t in range(1, chunk):
        h[:, :, t].addcmul_(decay[:, :, t], h[:, :, t - 1])
        left[:, :, t] *= left[:, :, t - 1]
    for n in range(h.shape[1]):
        if state is not None:
            h[:, n].addcmul_(left[:, n], state.unsqueeze(1))
        state = h[:, n, -1]
    return h.view(batch, -1, channels)[:, :tokens]
