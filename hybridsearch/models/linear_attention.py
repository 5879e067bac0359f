"""Gated linear attention as a module: one decay a key channel (GLA, 2312.06635) or a head (Mamba-2, 2405.21060).

Axes: B sequences, T tokens, H heads, K key size, V value size.
"""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from hybridsearch.kernels import dispatch
from hybridsearch.models.memory import ConvolutionTail, RecurrentState
from hybridsearch.models.mixer import Mixer
from hybridsearch.models.parts import DecayGate, GatedNorm, ShortConvolution
from hybridsearch.spec import mixers as spec


class ChannelDecay(nn.Module):
    """GLA's log decay of a key channel: logsigmoid of a low-rank map, divided by 16 so that it starts slow."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.expand = nn.Linear(spec.DECAY_RANK, channels)

    def forward(self, low: Tensor) -> Tensor:
        """[..., rank] -> [..., channels], in float32 (float64 in a float64 model)."""
        logits = self.expand(low)
        return F.logsigmoid(logits.to(torch.promote_types(logits.dtype, torch.float32))) / 16


class LinearAttention(Mixer[RecurrentState]):
    """Projections, optional short convolution, gated linear attention, normed output times SiLU of the gate."""

    def __init__(self, description: spec.GatedLinear, width: int, *, project: bool = True) -> None:
        super().__init__(width, description.heads * description.value_size, project=project)
        self.shape = (description.heads, description.head_dim, description.value_size)
        keys, values = description.heads * description.head_dim, self.value_width
        self.channels = 2 * keys + values
        vector = description.decay == "vector"
        decay = spec.DECAY_RANK if vector else description.heads
        self.key_value_sizes = [keys, keys, values]
        self.sizes = [self.channels, values * description.gate, decay]
        self.projection = nn.Linear(width, sum(self.sizes), bias=False)
        self.convolution = ShortConvolution(self.channels, description.short_conv) if description.short_conv else None
        self.decay = ChannelDecay(keys) if vector else DecayGate(description.heads)
        self.vector = vector
        self.norm = GatedNorm(description.value_size)

    def empty_memory(self, batch: int) -> RecurrentState:
        """A state of zeros, and zeros in the convolution's tail."""
        weight = self.projection.weight
        width = 0 if self.convolution is None else self.convolution.width
        tail = ConvolutionTail.empty(batch, width, self.channels, like=weight)
        return RecurrentState.empty((batch, *self.shape), tail, like=weight)

    def inner(self, x: Tensor, memory: RecurrentState | None = None) -> Tensor:
        """Whole sequences [B, T, width] -> [B, T, H V]."""
        mixed, gate, low = torch.split(self.projection(x), self.sizes, dim=-1)
        if self.convolution is not None:
            mixed = self.convolution(mixed, None if memory is None else memory.tail)
        q, k, v, g = self._inputs(mixed, low)
        o, state = dispatch.gated_linear_attention(q, k, v, g)
        if memory is not None:
            memory.state = state
        gated: Tensor = self.norm(o, gate if self.sizes[1] else None)
        return gated

    def inner_step(self, x: Tensor, memory: RecurrentState) -> Tensor:
        """One token [B, width] -> [B, H V]."""
        mixed, gate, low = torch.split(self.projection(x), self.sizes, dim=-1)
        if self.convolution is not None:
            mixed = self.convolution.step(mixed, memory.tail)
        q, k, v, g = self._inputs(mixed, low)
        o, memory.state = dispatch.gated_linear_attention_step(q, k, v, g, memory.state)
        gated: Tensor = self.norm(o, gate if self.sizes[1] else None)
        return gated

    def _inputs(self, mixed: Tensor, low: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        heads, key_size, value_size = self.shape
        q, k, v = torch.split(mixed, self.key_value_sizes, dim=-1)
        g: Tensor = self.decay(low)
        return (
            torch.unflatten(q, -1, (heads, key_size)),
            torch.unflatten(k, -1, (heads, key_size)),
            torch.unflatten(v, -1, (heads, value_size)),
            torch.unflatten(g, -1, (heads, key_size)) if self.vector else g,
        )
