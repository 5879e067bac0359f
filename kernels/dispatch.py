"""The one door to the kernels: for every operation, which implementation runs, by device, dtype and head size.

`TABLE` names the implementations of every operation, fastest first; the first that does not refuse serves the call. An
implementation that no test has checked does not stand in the table. A Triton kernel joins by one line above the PyTorch
one, with a `refuses` that names what it cannot do.

Axes: B batch, T tokens, L tokens in memory, H heads of q and k, G key-value heads of attention, HV heads of values,
K key size, V value size.
"""

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, Literal

import torch
from torch import Tensor

from hybridsearch.kernels.attention import pytorch as attention
from hybridsearch.kernels.cross_entropy import fused as entropy_triton
from hybridsearch.kernels.cross_entropy import pytorch as entropy
from hybridsearch.kernels.gated_delta import chunked as gated_delta
from hybridsearch.kernels.gated_delta import fused as gated_delta_triton
from hybridsearch.kernels.gated_delta import reference as gated_delta_loop
from hybridsearch.kernels.gated_scan import chunked as scan
from hybridsearch.kernels.gated_scan import fused as scan_triton
from hybridsearch.kernels.gated_scan import reference as scan_loop
from hybridsearch.kernels.kimi_delta import chunked as kimi_delta
from hybridsearch.kernels.kimi_delta import fused as kimi_delta_triton
from hybridsearch.kernels.kimi_delta import reference as kimi_delta_loop
from hybridsearch.kernels.linear_attention import chunked as linear_attention
from hybridsearch.kernels.linear_attention import fused as linear_attention_triton
from hybridsearch.kernels.linear_attention import step as linear_attention_loop
from hybridsearch.kernels.rms_norm import fused as norms_triton
from hybridsearch.kernels.rms_norm import pytorch as norms
from hybridsearch.kernels.rotary import fused as rotary_triton
from hybridsearch.kernels.rotary import pytorch as rotary
from hybridsearch.kernels.short_conv import fused as convolution_triton
from hybridsearch.kernels.short_conv import pytorch as convolution
from hybridsearch.kernels.sliding_window import blocked as sliding
from hybridsearch.kernels.sliding_window import fused as sliding_triton
from hybridsearch.kernels.token_routing import chunked as routing
from hybridsearch.kernels.token_routing import fused as routing_triton
from hybridsearch.kernels.token_routing import paged
from hybridsearch.kernels.token_routing.reference import LinearState, OwnChunk

Refusal = Callable[[torch.device, torch.dtype, int], str]


def _never(device: torch.device, dtype: torch.dtype, head_dim: int) -> str:
    return ""


def _not_cpu(device: torch.device, dtype: torch.dtype, head_dim: int) -> str:
    return "" if device.type == "cpu" else f"saves time on a cpu only, found {device.type}"


@dataclass(frozen=True, slots=True)
class Implementation:
    """One way to run an operation."""

    name: str
    function: Callable[..., Any]
    refuses: Refusal = _never
    """Why it cannot serve a device, dtype and head size; empty if it can."""


ROUTED = (
    Implementation("triton", routing_triton.token_routed_attention, routing_triton.refuses),
    Implementation("torch chunked", routing.token_routed_attention),
)
TABLE: dict[str, tuple[Implementation, ...]] = {
    "causal_attention": (
        Implementation("torch sdpa by cuDNN", attention.causal_attention_cuda, attention.refuses_cudnn),
        Implementation("flash-attn", attention.flash_attention, attention.refuses_flash_attention),
        Implementation("torch sdpa", attention.causal_attention_anywhere),
    ),
    "attention_step": (Implementation("torch sdpa", attention.attention_step),),
    "sliding_window_attention": (
        Implementation("triton", sliding_triton.sliding_window_attention, sliding_triton.refuses),
        Implementation("torch sdpa in blocks", sliding.sliding_window_attention),
    ),
    "gated_delta_rule": (
        Implementation("triton", gated_delta_triton.gated_delta_rule, gated_delta_triton.refuses),
        Implementation("torch chunked", gated_delta.gated_delta_rule),
    ),
    "gated_delta_step": (
        Implementation("triton", gated_delta_triton.gated_delta_step, gated_delta_triton.refuses_step),
        Implementation("torch", gated_delta_loop.gated_delta_step),
    ),
    "gated_linear_attention": (
        Implementation("triton", linear_attention_triton.gated_linear_attention, linear_attention_triton.refuses),
        Implementation("torch chunked", linear_attention.gated_linear_attention),
    ),
    "gated_linear_attention_step": (
        Implementation("triton", linear_attention_triton.gated_linear_attention_step, linear_attention_triton.refuses),
        Implementation("torch", linear_attention_loop.gated_linear_attention_step),
    ),
    "gated_scan": (
        Implementation("triton", scan_triton.gated_scan, scan_triton.refuses),
        Implementation("torch chunked", scan.gated_scan),
    ),
    "gated_scan_step": (
        Implementation("triton", scan_triton.gated_scan_step, scan_triton.refuses),
        Implementation("torch", scan_loop.gated_scan_step),
    ),
    "kimi_delta_rule": (
        Implementation("triton", kimi_delta_triton.kimi_delta_rule, kimi_delta_triton.refuses),
        Implementation("torch chunked", kimi_delta.kimi_delta_rule),
    ),
    "kimi_delta_step": (
        Implementation("triton", kimi_delta_triton.kimi_delta_step, kimi_delta_triton.refuses_step),
        Implementation("torch", kimi_delta_loop.kimi_delta_step),
    ),
    "token_routed_attention": ROUTED,
    "token_routed_prompt": (Implementation("torch, kept chunks only", paged.token_routed_prompt, _not_cpu), *ROUTED),
    "paged_attention_step": (
        Implementation("triton", routing_triton.paged_attention_step, routing_triton.refuses_step),
        Implementation("torch", paged.paged_attention_step),
    ),
    "short_conv": (
        Implementation("triton", convolution_triton.short_conv, convolution_triton.refuses),
        Implementation("torch, own backward", convolution.short_conv_own_backward, _not_cpu),
        Implementation("torch", convolution.short_conv),
    ),
    "short_conv_step": (
        Implementation("triton", convolution_triton.short_conv_step, convolution_triton.refuses),
        Implementation("torch", convolution.short_conv_step),
    ),
    "rms_norm": (
        Implementation("triton", norms_triton.rms_norm, norms_triton.refuses),
        Implementation("torch, own backward", norms.rms_norm_own_backward, _not_cpu),
        Implementation("torch", norms.rms_norm),
    ),
    "unit_length": (
        Implementation("triton", norms_triton.unit_length, norms_triton.refuses),
        Implementation("torch, own backward", norms.unit_length_own_backward, _not_cpu),
        Implementation("torch", norms.unit_length),
    ),
    "gated_rms_norm": (
        Implementation("triton", norms_triton.gated_rms_norm, norms_triton.refuses),
        Implementation("torch, own backward", norms.gated_rms_norm_own_backward, _not_cpu),
        Implementation("torch", norms.gated_rms_norm),
    ),
    "mixed_rms_norm": (
        Implementation("triton", norms_triton.mixed_rms_norm, norms_triton.refuses),
        Implementation("torch, own backward", norms.mixed_rms_norm_own_backward, _not_cpu),
        Implementation("torch", norms.mixed_rms_norm),
    ),
    "cross_entropy": (
        Implementation("triton over the logits", entropy_triton.cross_entropy, entropy_triton.refuses),
        Implementation("torch", entropy.cross_entropy),
    ),
    "rotate": (
        Implementation("triton", rotary_triton.rotate, rotary_triton.refuses),
        Implementation("torch, own backward", rotary.rotate_own_backward, _not_cpu),
        Implementation("torch", rotary.rotate),
    ),
}


CONVOLUTION_WIDTH = 4
"""What `describe` asks the short convolution for, in the place of a head size."""


@lru_cache(maxsize=1024)
def choose(operation: str, device: torch.device, dtype: torch.dtype, head_dim: int) -> Implementation:
    """The first implementation of `operation` that serves this device, dtype and head size."""
    return next(way for way in TABLE[operation] if not way.refuses(device, dtype, head_dim))


def describe(device: torch.device, dtype: torch.dtype | None = None, head_dim: int = 64) -> list[tuple[str, str, str]]:
    """For every operation: its name, the implementation that serves, and why each faster one does not.

    `dtype` none means that of training: bfloat16 on a GPU, else float32.
    """
    if dtype is None:
        dtype = torch.bfloat16 if device.type == "cuda" else torch.float32
    rows = []
    for operation, ways in TABLE.items():
        size = CONVOLUTION_WIDTH if operation.startswith("short_conv") else head_dim
        chosen = choose(operation, device, dtype, size)
        notes = [f"{way.name}: {way.refuses(device, dtype, size)}" for way in ways[: ways.index(chosen)]]
        if operation == "causal_attention" and device.type == "cuda" and torch.cuda.is_available():
            notes.append(f"backend: {attention.active_backend(device, dtype, head_dim)}")
        rows.append((operation, chosen.name, "; ".join(notes) or "first choice"))
    return rows


def _without_autocast(device: torch.device) -> AbstractContextManager[None]:
    """For recurrences: what they sum over a thousand tokens needs the dtype of the state, not that of the products."""
    if device.type == "meta" or not torch.is_autocast_enabled(device.type):
        return nullcontext()
    return torch.autocast(device.type, enabled=False)


def causal_attention(q: Tensor, k: Tensor, v: Tensor, *, scale: float | None = None) -> Tensor:
    """Causal softmax attention: [B, T, H, K], [B, T, G, K], [B, T, G, V] -> [B, T, H, V]."""
    o: Tensor = choose("causal_attention", q.device, q.dtype, q.shape[-1]).function(q, k, v, scale=scale)
    return o


def attention_step(q: Tensor, keys: Tensor, values: Tensor, *, scale: float | None = None) -> Tensor:
    """One query [B, H, K] over all of keys [B, G, L, K] and values [B, G, L, V] -> [B, H, V]."""
    o: Tensor = choose("attention_step", q.device, q.dtype, q.shape[-1]).function(q, keys, values, scale=scale)
    return o


def sliding_window_attention(
    q: Tensor, k: Tensor, v: Tensor, *, window: int, sinks: int = 0, scale: float | None = None
) -> Tensor:
    """Causal softmax attention over the last `window` and the first `sinks` tokens; shapes as in `causal_attention`."""
    way = choose("sliding_window_attention", q.device, q.dtype, q.shape[-1])
    o: Tensor = way.function(q, k, v, window=window, sinks=sinks, scale=scale)
    return o


def gated_delta_rule(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    g: Tensor | None,
    beta: Tensor,
    *,
    scale: float | None = None,
    initial_state: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """S = exp(g) (I - beta k k^T) S + beta k v^T, o = scale S^T q: output [B, T, HV, V], final state [B, HV, K, V].

    q and k [B, T, H, K] are of unit length, v is [B, T, HV, V], g (none: no decay) and beta are [B, T, HV].
    """
    way = choose("gated_delta_rule", v.device, v.dtype, k.shape[-1])
    with _without_autocast(v.device):
        result: tuple[Tensor, Tensor] = way.function(q, k, v, g, beta, scale=scale, initial_state=initial_state)
    return result


def gated_delta_step(
    q: Tensor, k: Tensor, v: Tensor, g: Tensor | None, beta: Tensor, state: Tensor, *, scale: float | None = None
) -> tuple[Tensor, Tensor]:
    """One token of `gated_delta_rule`, without the axis T: output [B, HV, V] and the new state."""
    way = choose("gated_delta_step", v.device, v.dtype, k.shape[-1])
    with _without_autocast(v.device):
        result: tuple[Tensor, Tensor] = way.function(q, k, v, g, beta, state, scale=scale)
    return result


def gated_linear_attention(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    g: Tensor,
    *,
    scale: float | None = None,
    initial_state: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """S = diag(exp(g)) S + k v^T, o = scale S^T q: output [B, T, H, V], final state [B, H, K, V].

    q and k are [B, T, H, K], v is [B, T, H, V], g is [B, T, H] or, one decay a key channel, [B, T, H, K].
    """
    way = choose("gated_linear_attention", v.device, v.dtype, k.shape[-1])
    with _without_autocast(v.device):
        result: tuple[Tensor, Tensor] = way.function(q, k, v, g, scale=scale, initial_state=initial_state)
    return result


def gated_linear_attention_step(
    q: Tensor, k: Tensor, v: Tensor, g: Tensor, state: Tensor, *, scale: float | None = None
) -> tuple[Tensor, Tensor]:
    """One token of `gated_linear_attention`, without the axis T: output [B, H, V] and the new state."""
    way = choose("gated_linear_attention_step", v.device, v.dtype, k.shape[-1])
    with _without_autocast(v.device):
        result: tuple[Tensor, Tensor] = way.function(q, k, v, g, state, scale=scale)
    return result


def kimi_delta_rule(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    g: Tensor,
    beta: Tensor,
    *,
    scale: float | None = None,
    initial_state: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """S = (I - beta k k^T) diag(exp(g)) S + beta k v^T, o = scale S^T q: output [B, T, HV, V], state [B, HV, K, V].

    q and k [B, T, H, K] are of unit length, v is [B, T, HV, V], g [B, T, HV, K], beta [B, T, HV].
    """
    way = choose("kimi_delta_rule", v.device, v.dtype, k.shape[-1])
    with _without_autocast(v.device):
        result: tuple[Tensor, Tensor] = way.function(q, k, v, g, beta, scale=scale, initial_state=initial_state)
    return result


def kimi_delta_step(
    q: Tensor, k: Tensor, v: Tensor, g: Tensor, beta: Tensor, state: Tensor, *, scale: float | None = None
) -> tuple[Tensor, Tensor]:
    """One token of `kimi_delta_rule`, without the axis T: output [B, HV, V] and the new state."""
    way = choose("kimi_delta_step", v.device, v.dtype, k.shape[-1])
    with _without_autocast(v.device):
        result: tuple[Tensor, Tensor] = way.function(q, k, v, g, beta, state, scale=scale)
    return result


def gated_scan(x: Tensor, g: Tensor, *, initial_state: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """h_t = exp(g_t) h_{t-1} + x_t, every channel for itself: [B, T, D] twice -> h [B, T, D], final state [B, D]."""
    way = choose("gated_scan", x.device, x.dtype, x.shape[-1])
    with _without_autocast(x.device):
        result: tuple[Tensor, Tensor] = way.function(x, g, initial_state=initial_state)
    return result


def gated_scan_step(x: Tensor, g: Tensor, state: Tensor) -> tuple[Tensor, Tensor]:
    """One token of `gated_scan`, without the axis T: output [B, D] and the new state."""
    way = choose("gated_scan_step", x.device, x.dtype, x.shape[-1])
    with _without_autocast(x.device):
        result: tuple[Tensor, Tensor] = way.function(x, g, state)
    return result


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
) -> tuple[Tensor, Tensor, LinearState]:
    """Softmax over own and softmax-typed chunks, and a delta rule whose state linear-typed chunks write (NAtS-L).

    q, k [B, T, A, Ka], v [B, T, A, Va] of A softmax heads; linear_q, linear_k [B, T, H, K] of unit length, linear_v
    [B, T, H, V], g (none: no decay) and beta [B, T, H] of H linear heads; route [B, T // chunk, H, 2], one-hot
    (softmax, linear), with a gradient. Both outputs, [B, T, A, Va] and [B, T, H, V], and the linear state.
    """
    way = choose("token_routed_attention", v.device, v.dtype, k.shape[-1])
    with _without_autocast(v.device):
        result: tuple[Tensor, Tensor, LinearState] = way.function(
            q,
            k,
            v,
            linear_q,
            linear_k,
            linear_v,
            g,
            beta,
            route,
            chunk=chunk,
            own_chunk=own_chunk,
            decay_through=decay_through,
        )
    return result


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
) -> tuple[Tensor, Tensor, LinearState]:
    """`token_routed_attention` of a prompt, without gradients; the host may read the route, to skip dropped chunks."""
    way = choose("token_routed_prompt", v.device, v.dtype, k.shape[-1])
    with torch.no_grad(), _without_autocast(v.device):
        result: tuple[Tensor, Tensor, LinearState] = way.function(
            q,
            k,
            v,
            linear_q,
            linear_k,
            linear_v,
            g,
            beta,
            route,
            chunk=chunk,
            own_chunk=own_chunk,
            decay_through=decay_through,
        )
    return result


def paged_attention_step(
    q: Tensor, pages: tuple[Tensor, Tensor], rows: Tensor, own: tuple[Tensor, Tensor] | None
) -> Tensor:
    """One query [B, A, Ka] over the pages of its row and its own chunk, [B, A, Va].

    Pages are keys [P, G, C, Ka] and values [P, G, C, Va]; page p belongs to sequence b and linear head h with
    rows[p] = b H + h, A = H G. The own chunk is keys [B, A, L, Ka] and values [B, A, L, Va], or none.
    """
    o: Tensor = choose("paged_attention_step", q.device, q.dtype, q.shape[-1]).function(q, pages, rows, own)
    return o


def short_conv(x: Tensor, weight: Tensor) -> Tensor:
    """Causal depthwise convolution along T, then SiLU: [B, T, C] with weight [width, C]."""
    y: Tensor = choose("short_conv", x.device, x.dtype, weight.shape[0]).function(x, weight)
    return y


def short_conv_step(x: Tensor, weight: Tensor, tail: Tensor) -> tuple[Tensor, Tensor]:
    """One token [B, C] after the inputs `tail` [B, width - 1, C]: output [B, C] and the new tail."""
    way = choose("short_conv_step", x.device, x.dtype, weight.shape[0])
    result: tuple[Tensor, Tensor] = way.function(x, weight, tail)
    return result


def rms_norm(x: Tensor, weight: Tensor | None, epsilon: float) -> Tensor:
    """x / sqrt(mean x^2 + epsilon) over the last axis, times `weight` [K] or, a row a head, [H, K] if there is one."""
    y: Tensor = choose("rms_norm", x.device, x.dtype, x.shape[-1]).function(x, weight, epsilon)
    return y


def unit_length(x: Tensor, epsilon: float) -> Tensor:
    """x / sqrt(sum x^2 + epsilon) over the last axis."""
    y: Tensor = choose("unit_length", x.device, x.dtype, x.shape[-1]).function(x, epsilon)
    return y


def gated_rms_norm(x: Tensor, weight: Tensor, gate: Tensor, epsilon: float) -> Tensor:
    """weight * x / sqrt(mean x^2 + epsilon) * SiLU(gate); x and gate are [..., H, V], weight is [V]."""
    y: Tensor = choose("gated_rms_norm", x.device, x.dtype, x.shape[-1]).function(x, weight, gate, epsilon)
    return y


def mixed_rms_norm(
    first: Tensor,
    second: Tensor,
    first_weight: Tensor,
    second_weight: Tensor,
    share: Tensor | None,
    gate: Tensor | None,
    epsilon: float,
) -> Tensor:
    """SiLU(gate) (share w1 rms_norm(first) + (1 - share) w2 rms_norm(second)), in the dtype of the second.

    first, second and gate are [..., H, V], the weights [V], the share of the first [..., H] or [H]. Without a share
    both count in full, without a gate there is no SiLU.
    """
    way = choose("mixed_rms_norm", second.device, second.dtype, second.shape[-1])
    y: Tensor = way.function(first, second, first_weight, second_weight, share, gate, epsilon)
    return y


def cross_entropy(
    hidden: Tensor, vocabulary: Tensor, targets: Tensor, *, reduction: Literal["mean", "sum"] = "mean"
) -> Tensor:
    """Mean or sum, in nats, of -log softmax(vocabulary hidden)[target]: [N, width], [V, width] and [N]."""
    way = choose("cross_entropy", hidden.device, hidden.dtype, hidden.shape[-1])
    loss: Tensor = way.function(hidden, vocabulary, targets, reduction=reduction)
    return loss


def rotate(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Rotary positions: [B, T, H, K] with cos and sin [T, H or 1, K], the first half of sin negated."""
    y: Tensor = choose("rotate", x.device, x.dtype, x.shape[-1]).function(x, cos, sin)
    return y
