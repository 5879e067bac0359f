"""Softmax attention as modules: over the whole past, and over a sliding window with sinks.

Axes: B sequences, T tokens, H query heads, G key-value heads, K key size, V value size.
"""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from hybridsearch.kernels import dispatch
from hybridsearch.models.memory import ConvolutionTail, KeyValueCache, KeyValueRing
from hybridsearch.models.mixer import Mixer
from hybridsearch.models.parts import HeadNorms, Rotary, ShortConvolution
from hybridsearch.spec import mixers as spec


class FullAttention(Mixer[KeyValueCache]):
    """Causal softmax attention over the whole past."""

    def __init__(self, description: spec.FullAttention, width: int, *, project: bool = True) -> None:
        super().__init__(width, description.heads * description.value_size, project=project)
        self.shape = (description.groups, description.head_dim, description.value_size)
        self.heads = AttentionHeads(description.heads, *self.shape, description.rope_theta, description.qk_norm)
        channels = self.heads.channels
        self.projection = nn.Linear(width, channels + self.value_width * description.gate, bias=False)
        self.convolution = ShortConvolution(channels, description.short_conv) if description.short_conv else None

    def empty_memory(self, batch: int) -> KeyValueCache:
        """A cache of no tokens, and zeros in the convolution's tail."""
        weight = self.projection.weight
        width = 0 if self.convolution is None else self.convolution.width
        tail = ConvolutionTail.empty(batch, width, self.heads.channels, like=weight)
        return KeyValueCache.empty((batch, *self.shape), tail, like=weight)

    def inner(self, x: Tensor, memory: KeyValueCache | None = None) -> Tensor:
        """Whole sequences [B, T, width] -> [B, T, H V]."""
        projected, gate = self._split(self.projection(x))
        if self.convolution is not None:
            projected = self.convolution(projected, None if memory is None else memory.tail)
        q, k, v = self.heads(projected)
        if memory is not None:
            memory.append(k.transpose(1, 2), v.transpose(1, 2))
        o = dispatch.causal_attention(q, k, v).flatten(2)
        return o if gate is None else o * F.silu(gate)

    def inner_step(self, x: Tensor, memory: KeyValueCache) -> Tensor:
        """One token [B, width] -> [B, H V]."""
        projected, gate = self._split(self.projection(x))
        if self.convolution is not None:
            projected = self.convolution.step(projected, memory.tail)
        q, k, v = self.heads(projected[:, None], memory.length)
        memory.append(k.transpose(1, 2), v.transpose(1, 2))
        o = dispatch.attention_step(q[:, 0], memory.keys, memory.values).flatten(1)
        return o if gate is None else o * F.silu(gate)

    def _split(self, projected: Tensor) -> tuple[Tensor, Tensor | None]:
        channels = self.heads.channels
        if projected.shape[-1] == channels:
            return projected, None
        heads, gate = torch.split(projected, [channels, self.value_width], dim=-1)
        return heads, gate


class SlidingWindow(Mixer[KeyValueRing]):
    """Causal softmax attention over the last `window` and the first `sinks` tokens."""

    def __init__(self, description: spec.SlidingWindow, width: int, *, project: bool = True) -> None:
        super().__init__(width, description.heads * description.head_dim, project=project)
        self.window, self.sinks = description.window, description.sinks
        self.shape = (description.groups, description.head_dim, description.head_dim)
        self.heads = AttentionHeads(description.heads, *self.shape, description.rope_theta, description.qk_norm)
        self.projection = nn.Linear(width, self.heads.channels, bias=False)

    def empty_memory(self, batch: int) -> KeyValueRing:
        """A ring of no tokens."""
        shape = (batch, *self.shape)
        return KeyValueRing.empty(shape, window=self.window, sinks=self.sinks, like=self.projection.weight)

    def inner(self, x: Tensor, memory: KeyValueRing | None = None) -> Tensor:
        """Whole sequences [B, T, width] -> [B, T, H V]."""
        q, k, v = self.heads(self.projection(x))
        if memory is not None:
            memory.fill(k.transpose(1, 2), v.transpose(1, 2))
        return dispatch.sliding_window_attention(q, k, v, window=self.window, sinks=self.sinks).flatten(2)

    def inner_step(self, x: Tensor, memory: KeyValueRing) -> Tensor:
        """One token [B, width] -> [B, H V]."""
        q, k, v = self.heads(self.projection(x)[:, None], memory.seen)
        memory.append(k.transpose(1, 2), v.transpose(1, 2))
        return dispatch.attention_step(q[:, 0], memory.keys, memory.values).flatten(1)


class AttentionHeads(nn.Module):
    """Splits projected channels [q | k | v] into heads, norms queries and keys, and turns them to their positions."""

    def __init__(
        self, heads: int, groups: int, key_size: int, value_size: int, rope_theta: float | None, qk_norm: bool
    ) -> None:
        super().__init__()
        self.query_heads, self.groups = heads, groups
        self.key_size, self.value_size = key_size, value_size
        self.channels = (heads + groups) * key_size + groups * value_size
        self.norms = HeadNorms((heads, groups), key_size) if qk_norm else None
        self.rotary = None if rope_theta is None else Rotary(key_size, rope_theta)

    def forward(self, projected: Tensor, start: int = 0) -> tuple[Tensor, Tensor, Tensor]:
        """[B, T, channels] -> q [B, T, H, K], k [B, T, G, K], v [B, T, G, V]; `start` is the first token's position."""
        split = (self.query_heads + self.groups) * self.key_size
        qk, v = torch.split(projected, [split, self.channels - split], dim=-1)
        qk = torch.unflatten(qk, -1, (self.query_heads + self.groups, self.key_size))
        v = torch.unflatten(v, -1, (self.groups, self.value_size))
        if self.norms is not None:
            qk = self.norms(qk)
        if self.rotary is not None:
            qk = self.rotary(qk, start)
        q, k = torch.split(qk, [self.query_heads, self.groups], dim=2)
        return q, k, v
