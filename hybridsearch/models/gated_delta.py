"""The delta rule as a module, with decay (Gated DeltaNet, 2412.06464) and without (DeltaNet, 2406.06484).

Axes: B sequences, T tokens, H heads of q and k, HV value heads, K key size, V value size.
"""

from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from hybridsearch.kernels import dispatch
from hybridsearch.models.memory import ConvolutionTail, RecurrentState
from hybridsearch.models.mixer import Mixer
from hybridsearch.models.parts import DecayGate, GatedNorm, ShortConvolution, unit_length
from hybridsearch.spec import mixers as spec


class DeltaInputs(NamedTuple):
    """What the delta rule reads of its tokens; leading axes [B, T] or, in a step, [B]."""

    q: Tensor
    """[..., H, K], after the convolution, not yet of unit length."""
    k: Tensor
    v: Tensor
    """[..., HV, V]."""
    g: Tensor | None
    """Log decay [..., HV] in float32; none without decay."""
    beta: Tensor
    """[..., HV], in (0, 1) or (0, 2)."""
    gate: Tensor | None
    """[..., HV V] before its SiLU; none without a gate."""
    mixed: Tensor
    """[..., channels]: q, k and v side by side."""


class DeltaProjections(nn.Module):
    """One matrix for q, k, v, the gate, beta and the decay; short convolution with SiLU on q, k and v."""

    def __init__(self, description: spec.GatedDelta | spec.Delta, width: int) -> None:
        super().__init__()
        gated = isinstance(description, spec.GatedDelta)
        self.key_heads, self.key_size = description.heads, description.head_dim
        self.value_heads = description.groups if isinstance(description, spec.GatedDelta) else description.heads
        self.value_size = description.value_size
        self.negative_eigenvalues = description.negative_eigenvalues
        keys, values = self.key_heads * self.key_size, self.value_heads * self.value_size
        self.channels = 2 * keys + values
        self.sizes = [self.channels, values * description.gate, self.value_heads, self.value_heads * gated]
        self.key_value_sizes = [keys, keys, values]
        self.projection = nn.Linear(width, sum(self.sizes), bias=False)
        self.convolution = ShortConvolution(self.channels, description.short_conv) if description.short_conv else None
        self.decay = DecayGate(self.value_heads) if gated else None

    def empty_memory(self, batch: int) -> RecurrentState:
        """A state of zeros, and zeros in the convolution's tail."""
        weight = self.projection.weight
        width = 0 if self.convolution is None else self.convolution.width
        tail = ConvolutionTail.empty(batch, width, self.channels, like=weight)
        return RecurrentState.empty((batch, self.value_heads, self.key_size, self.value_size), tail, like=weight)

    def forward(self, x: Tensor, tail: ConvolutionTail | None = None) -> DeltaInputs:
        """Whole sequences [B, T, width]; `tail` is filled."""
        mixed, *rest = torch.split(self.projection(x), self.sizes, dim=-1)
        mixed = F.silu(mixed) if self.convolution is None else self.convolution(mixed, tail)
        return self._inputs(mixed, *rest)

    def step(self, x: Tensor, tail: ConvolutionTail) -> DeltaInputs:
        """One token [B, width]; `tail` is advanced."""
        mixed, *rest = torch.split(self.projection(x), self.sizes, dim=-1)
        mixed = F.silu(mixed) if self.convolution is None else self.convolution.step(mixed, tail)
        return self._inputs(mixed, *rest)

    def _inputs(self, mixed: Tensor, gate: Tensor, beta: Tensor, a: Tensor) -> DeltaInputs:
        q, k, v = torch.split(mixed, self.key_value_sizes, dim=-1)
        beta = beta.sigmoid()
        return DeltaInputs(
            q=torch.unflatten(q, -1, (self.key_heads, self.key_size)),
            k=torch.unflatten(k, -1, (self.key_heads, self.key_size)),
            v=torch.unflatten(v, -1, (self.value_heads, self.value_size)),
            g=None if self.decay is None else self.decay(a),
            beta=2 * beta if self.negative_eigenvalues else beta,
            gate=gate if gate.shape[-1] else None,
            mixed=mixed,
        )


class DeltaRule(Mixer[RecurrentState]):
    """Projections, the delta rule, and the normed output times SiLU of the gate."""

    def __init__(self, description: spec.GatedDelta | spec.Delta, width: int, *, project: bool = True) -> None:
        inputs = DeltaProjections(description, width)
        super().__init__(width, inputs.value_heads * inputs.value_size, project=project)
        self.inputs = inputs
        self.norm = GatedNorm(inputs.value_size)

    def empty_memory(self, batch: int) -> RecurrentState:
        """A state of zeros, and zeros in the convolution's tail."""
        return self.inputs.empty_memory(batch)

    def inner(self, x: Tensor, memory: RecurrentState | None = None) -> Tensor:
        """Whole sequences [B, T, width] -> [B, T, HV V]."""
        inputs: DeltaInputs = self.inputs(x, None if memory is None else memory.tail)
        q, k = unit_length(inputs.q), unit_length(inputs.k)
        o, state = dispatch.gated_delta_rule(q, k, inputs.v, inputs.g, inputs.beta)
        if memory is not None:
            memory.state = state
        gated: Tensor = self.norm(o, inputs.gate)
        return gated

    def inner_step(self, x: Tensor, memory: RecurrentState) -> Tensor:
        """One token [B, width] -> [B, HV V]."""
        inputs = self.inputs.step(x, memory.tail)
        q, k = unit_length(inputs.q), unit_length(inputs.k)
        o, memory.state = dispatch.gated_delta_step(q, k, inputs.v, inputs.g, inputs.beta, memory.state)
        gated: Tensor = self.norm(o, inputs.gate)
        return gated
