"""The delta rule with a decay a key channel as a module (Kimi Delta Attention, 2510.26692).

Axes: B sequences, T tokens, H heads, K key size, V value size.
"""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from hybridsearch.kernels import dispatch
from hybridsearch.models.memory import ConvolutionTail, RecurrentState
from hybridsearch.models.mixer import Mixer
from hybridsearch.models.parts import RMSNorm, ShortConvolution, unit_length
from hybridsearch.spec.kimi_delta import KimiDelta


class ChannelDecayGate(nn.Module):
    """Log decay of a key channel, -exp(A_log) softplus(a + dt_bias) <= 0, with one A_log a head (2510.26692)."""

    def __init__(self, heads: int, key_size: int) -> None:
        super().__init__()
        self.a_log = nn.Parameter(torch.empty(heads))
        self.dt_bias = nn.Parameter(torch.empty(heads * key_size))

    def forward(self, a: Tensor) -> Tensor:
        """[..., H K] in the model's dtype -> [..., H, K] in float32 (float64 in a float64 model)."""
        wide = torch.promote_types(a.dtype, torch.float32)
        steps = torch.unflatten(F.softplus(a.to(wide) + self.dt_bias), -1, (len(self.a_log), -1))
        return -self.a_log.to(wide).exp()[:, None] * steps


class KimiDeltaRule(Mixer[RecurrentState]):
    """One matrix for q, k, v, beta and the low ranks of decays and gate; convolution, rule, gated norm."""

    def __init__(self, description: KimiDelta, width: int, *, project: bool = True) -> None:
        super().__init__(width, description.heads * description.value_size, project=project)
        self.shape = (description.heads, description.head_dim, description.value_size)
        keys, rank = description.heads * description.head_dim, description.value_size
        self.channels = 2 * keys + self.value_width
        self.key_value_sizes = [keys, keys, self.value_width]
        self.sizes = [self.channels, description.heads, rank, rank * description.gate]
        self.negative_eigenvalues = description.negative_eigenvalues
        self.projection = nn.Linear(width, sum(self.sizes), bias=False)
        self.convolution = ShortConvolution(self.channels, description.short_conv) if description.short_conv else None
        self.expand_decay = nn.Linear(rank, keys, bias=False)
        self.decay = ChannelDecayGate(description.heads, description.head_dim)
        self.expand_gate = nn.Linear(rank, self.value_width) if description.gate else None
        self.norm = RMSNorm(description.value_size)

    def empty_memory(self, batch: int) -> RecurrentState:
        """A state of zeros, and zeros in the convolution's tail."""
        weight = self.projection.weight
        width = 0 if self.convolution is None else self.convolution.width
        tail = ConvolutionTail.empty(batch, width, self.channels, like=weight)
        return RecurrentState.empty((batch, *self.shape), tail, like=weight)

    def inner(self, x: Tensor, memory: RecurrentState | None = None) -> Tensor:
        """Whole sequences [B, T, width] -> [B, T, H V]."""
        mixed, beta, low_decay, low_gate = torch.split(self.projection(x), self.sizes, dim=-1)
        if self.convolution is None:
            mixed = F.silu(mixed)
        else:
            mixed = self.convolution(mixed, None if memory is None else memory.tail)
        o, state = dispatch.kimi_delta_rule(*self._inputs(mixed, beta, low_decay))
        if memory is not None:
            memory.state = state
        return self._gated(o, low_gate)

    def inner_step(self, x: Tensor, memory: RecurrentState) -> Tensor:
        """One token [B, width] -> [B, H V]."""
        mixed, beta, low_decay, low_gate = torch.split(self.projection(x), self.sizes, dim=-1)
        mixed = F.silu(mixed) if self.convolution is None else self.convolution.step(mixed, memory.tail)
        o, memory.state = dispatch.kimi_delta_step(*self._inputs(mixed, beta, low_decay), memory.state)
        return self._gated(o, low_gate)

    def _inputs(self, mixed: Tensor, beta: Tensor, low_decay: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
        heads, key_size, value_size = self.shape
        q, k, v = torch.split(mixed, self.key_value_sizes, dim=-1)
        beta = beta.sigmoid()
        return (
            unit_length(torch.unflatten(q, -1, (heads, key_size))),
            unit_length(torch.unflatten(k, -1, (heads, key_size))),
            torch.unflatten(v, -1, (heads, value_size)),
            self.decay(self.expand_decay(low_decay)),
            2 * beta if self.negative_eigenvalues else beta,
        )

    def _gated(self, o: Tensor, low_gate: Tensor) -> Tensor:
        normed: Tensor = self.norm(o).flatten(-2)
        return normed if self.expand_gate is None else normed * self.expand_gate(low_gate).sigmoid()
