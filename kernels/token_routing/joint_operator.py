"""Both branches of token routing as one operator, `hybridsearch::token_routed`, so that they run side by side.

The linear branch goes over its chunks one after the other with few programs, and leaves most of the device to the
softmax branch, which runs beside it on another stream; forwards and backwards, in a CUDA graph too.
"""

from collections.abc import Callable
from functools import lru_cache
from typing import Any

import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensor

from hybridsearch.kernels.gated_delta import operators as delta
from hybridsearch.kernels.registration import define, differentiate
from hybridsearch.kernels.token_routing import operators as softmax

Tensors = tuple[Tensor, ...]


@lru_cache(maxsize=64)
def _side(device: int, stream: int) -> torch.cuda.Stream:
    """The stream beside another one, ahead of it where programs of both wait.

    Every stream has its own: so what was allocated beside it is free again in the order of the stream's own work.
    """
    return torch.cuda.Stream(device, priority=-1)  # type: ignore[no-untyped-call]


def _beside(x: Tensor, first: Callable[[], Tensors], second: Callable[[], Tensors]) -> tuple[Tensors, Tensors]:
    """Both results; on a GPU `first` runs beside the current stream, which goes on when both are done."""
    if not x.is_cuda or isinstance(x, FakeTensor):
        return first(), second()
    now = torch.cuda.current_stream(x.device)
    side = _side(x.device.index, now.cuda_stream)
    side.wait_stream(now)
    with torch.cuda.stream(side):
        one = first()
    two = second()
    now.wait_stream(side)
    return one, two


def _token_routed(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    softmax_gate: Tensor,
    linear_q: Tensor,
    linear_k: Tensor,
    linear_v: Tensor,
    g: Tensor | None,
    beta: Tensor,
    linear_gate: Tensor,
    initial_state: Tensor | None,
    scale: float,
    linear_scale: float,
    segments: int,
    chunk: int,
    reads_own: bool,
    train: bool,
) -> Tensors:
    """What `routed_softmax` and then what `gated_delta` return."""
    rows = linear_q, linear_k, linear_v, g, beta, initial_state
    of_delta, of_softmax = _beside(
        q,
        lambda: delta.gated_delta(*rows, linear_scale, segments, train, linear_gate),
        lambda: softmax.routed_softmax(q, k, v, softmax_gate, scale, chunk, reads_own),
    )
    return (*of_softmax, *of_delta)


def _token_routed_backward(
    d_softmax: Tensor,
    d_linear: Tensor,
    d_last: Tensor | None,
    q: Tensor,
    k: Tensor,
    v: Tensor,
    softmax_gate: Tensor,
    linear_q: Tensor,
    linear_k: Tensor,
    linear_v: Tensor,
    beta: Tensor,
    linear_gate: Tensor,
    softmax_saved: list[Tensor],
    delta_saved: list[Tensor],
    scale: float,
    linear_scale: float,
    segments: int,
    chunk: int,
    reads_own: bool,
    gated: bool,
) -> Tensors:
    """What `routed_softmax_backward` and then what `gated_delta_backward` return."""
    rows = d_linear, d_last, linear_q, linear_k, linear_v, beta
    of_delta, of_softmax = _beside(
        q,
        lambda: delta.gated_delta_backward(*rows, *delta_saved, linear_scale, segments, gated, linear_gate),
        lambda: softmax.routed_softmax_backward(
            d_softmax, q, k, v, softmax_gate, *softmax_saved, scale, chunk, reads_own
        ),
    )
    return (*of_softmax, *of_delta)


def _keep(ctx: Any, inputs: tuple[Any, ...], output: Tensors) -> None:
    *leaves, initial_state, scale, linear_scale, segments, chunk, reads_own, _ = inputs
    g = leaves.pop(7)
    ctx.mark_non_differentiable(*output[1:4], *output[6:])
    ctx.set_materialize_grads(False)
    ctx.save_for_backward(*leaves, *output[:4], *output[6:])
    ctx.scales, ctx.segments, ctx.chunk, ctx.reads_own = (scale, linear_scale), segments, chunk, reads_own
    ctx.gated, ctx.started = g is not None, initial_state is not None


def _backward(ctx: Any, *d_outputs: Tensor | None) -> tuple[Tensor | None, ...]:
    leaves, saved = ctx.saved_tensors[:9], ctx.saved_tensors[9:]
    d_softmax = torch.zeros_like(leaves[2]) if d_outputs[0] is None else d_outputs[0]
    d_linear = torch.zeros_like(leaves[6]) if d_outputs[4] is None else d_outputs[4]
    d_q, d_k, d_v, columns, *of_delta, d_g, d_beta, d_initial, d_linear_gate = token_routed_backward(
        d_softmax, d_linear, d_outputs[5], *leaves, saved[:4], saved[4:],
        *ctx.scales, ctx.segments, ctx.chunk, ctx.reads_own, ctx.gated,
    )  # fmt: skip
    d_softmax_gate = softmax.gate_gradient(columns, leaves[3], ctx.chunk)
    gradients = d_q, d_k, d_v, d_softmax_gate, *of_delta, d_g if ctx.gated else None, d_beta
    ends = d_linear_gate.to(leaves[8].dtype), d_initial if ctx.started else None
    return (*gradients, *ends, None, None, None, None, None, None)


OUTPUTS = "(" + ", ".join(["Tensor"] * 12) + ")"
GRADIENTS = "(" + ", ".join(["Tensor"] * 11) + ")"

token_routed = define(
    "token_routed",
    "(Tensor q, Tensor k, Tensor v, Tensor softmax_gate, Tensor linear_q, Tensor linear_k, Tensor linear_v, Tensor? g, "
    "Tensor beta, Tensor linear_gate, Tensor? initial_state, float scale, float linear_scale, SymInt segments, "
    f"int chunk, bool reads_own, bool train) -> {OUTPUTS}",
    _token_routed,
    _token_routed,
)
token_routed_backward = define(
    "token_routed_backward",
    "(Tensor d_softmax, Tensor d_linear, Tensor? d_last, Tensor q, Tensor k, Tensor v, Tensor softmax_gate, "
    "Tensor linear_q, Tensor linear_k, Tensor linear_v, Tensor beta, Tensor linear_gate, Tensor[] softmax_saved, "
    "Tensor[] delta_saved, float scale, float linear_scale, SymInt segments, int chunk, bool reads_own, bool gated)"
    f" -> {GRADIENTS}",
    _token_routed_backward,
    _token_routed_backward,
)
differentiate("token_routed", _keep, _backward)
