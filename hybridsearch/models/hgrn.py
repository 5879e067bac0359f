"""HGRN's gated recurrence as a module (Qin et al., 2311.04823).

h_t = f_t h_{t-1} + (1 - f_t) i_t with f = b + (1 - b) sigmoid(W_f x), b the lower bound, and i = SiLU(W_i x), every
channel for itself. Axes: B sequences, T tokens, H heads, V channels of a head.
"""

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from hybridsearch.kernels import dispatch
from hybridsearch.models.memory import ConvolutionTail, RecurrentState
from hybridsearch.models.mixer import Mixer
from hybridsearch.models.parts import GatedNorm, ShortConvolution
from hybridsearch.spec.hgrn import Hgrn


class GatedRecurrence(Mixer[RecurrentState]):
    """One matrix for inputs, forget gates and output gates; the scan; normed output times SiLU of the gate."""

    def __init__(self, description: Hgrn, width: int, *, project: bool = True) -> None:
        super().__init__(width, description.channels, project=project)
        self.heads, self.least_forget = description.heads, description.least_forget
        channels = description.channels
        self.sizes = [channels, channels, channels * description.gate]
        self.projection = nn.Linear(width, sum(self.sizes), bias=False)
        self.convolution = ShortConvolution(channels, description.short_conv) if description.short_conv else None
        self.norm = GatedNorm(description.head_dim)

    def empty_memory(self, batch: int) -> RecurrentState:
        """A state of zeros [B, H, 1, V], and zeros in the convolution's tail."""
        weight = self.projection.weight
        width = 0 if self.convolution is None else self.convolution.width
        tail = ConvolutionTail.empty(batch, width, self.value_width, like=weight)
        return RecurrentState.empty((batch, self.heads, 1, self.value_width // self.heads), tail, like=weight)

    def inner(self, x: Tensor, memory: RecurrentState | None = None) -> Tensor:
        """Whole sequences [B, T, width] -> [B, T, H V]."""
        i, forget, gate = torch.split(self.projection(x), self.sizes, dim=-1)
        i = F.silu(i) if self.convolution is None else self.convolution(i, None if memory is None else memory.tail)
        h, state = dispatch.gated_scan(*self._inputs(i, forget))
        if memory is not None:
            memory.state = state.view_as(memory.state)
        return self._normed(h, gate)

    def inner_step(self, x: Tensor, memory: RecurrentState) -> Tensor:
        """One token [B, width] -> [B, H V]."""
        i, forget, gate = torch.split(self.projection(x), self.sizes, dim=-1)
        i = F.silu(i) if self.convolution is None else self.convolution.step(i, memory.tail)
        h, state = dispatch.gated_scan_step(*self._inputs(i, forget), memory.state.flatten(1))
        memory.state = state.view_as(memory.state)
        return self._normed(h, gate)

    def _inputs(self, i: Tensor, forget: Tensor) -> tuple[Tensor, Tensor]:
        """(1 - f) i, and log f in float32 (float64 in a float64 model)."""
        logits = forget.to(torch.promote_types(forget.dtype, torch.float32))
        log_forget = F.logsigmoid(logits)
        kept = (1 - self.least_forget) * torch.sigmoid(-logits)
        if self.least_forget:
            bound = math.log(self.least_forget)
            log_forget = torch.logaddexp(log_forget + math.log1p(-self.least_forget), torch.full_like(logits, bound))
        return (kept * i).to(i.dtype), log_forget

    def _normed(self, h: Tensor, gate: Tensor) -> Tensor:
        normed: Tensor = self.norm(torch.unflatten(h, -1, (self.heads, -1)), gate if self.sizes[2] else None)
        return normed
