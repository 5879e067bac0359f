"""What mixers and blocks are made of: norms, rotary positions, short convolution, decay gate, SwiGLU."""

from functools import lru_cache

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from hybridsearch.kernels import dispatch
from hybridsearch.models.memory import ConvolutionTail

EPSILON = 1e-6


class RMSNorm(nn.Module):
    """Root-mean-square norm over the last axis, with a weight."""

    def __init__(self, size: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(size))

    def forward(self, x: Tensor) -> Tensor:
        """Same shape and dtype as `x`."""
        return dispatch.rms_norm(x, self.weight, EPSILON)


class HeadNorms(nn.Module):
    """RMS norms with weight over the heads of queries and of keys, which lie side by side, in one operation."""

    def __init__(self, heads: tuple[int, int], size: int) -> None:
        super().__init__()
        self.heads, self.size = heads, size
        self.query = nn.Parameter(torch.empty(size))
        self.key = nn.Parameter(torch.empty(size))

    def forward(self, x: Tensor) -> Tensor:
        """[..., query heads + key heads, size], same shape out."""
        rows = [weight.expand(heads, -1) for weight, heads in zip((self.query, self.key), self.heads, strict=True)]
        return dispatch.rms_norm(x, torch.cat(rows), EPSILON)


def unit_length(x: Tensor) -> Tensor:
    """`x` / sqrt(sum x^2 + 1e-6) over the last axis."""
    return dispatch.unit_length(x, EPSILON)


class Rotary:
    """Rotary positions (Su et al., 2104.09864), halves paired: channel i turns with channel i + K/2."""

    def __init__(self, head_dim: int, theta: float) -> None:
        self.head_dim, self.theta = head_dim, theta

    def __call__(self, x: Tensor, start: int = 0) -> Tensor:
        """Turn [B, T, H, K]; the first token stands at position `start`."""
        stop = start + x.shape[1]
        length = max(256, 1 << (stop - 1).bit_length())
        heads = x.shape[2] if x.device.type == "cpu" else 1
        cos, sin = _angles(self.theta, self.head_dim, heads, length, x.dtype, x.device)
        return dispatch.rotate(x, cos[start:stop], sin[start:stop])


@lru_cache(maxsize=32)
def _angles(
    theta: float, size: int, heads: int, length: int, dtype: torch.dtype, device: torch.device
) -> tuple[Tensor, Tensor]:
    """cos and sin [length, heads, size], the first half of sin negated.

    Repeated for every head on a CPU, where a product over whole rows takes a third of the time of one that starts again
    at each head. Made outside of inference mode, for a table first used in a measurement also serves the training after
    it.
    """
    with torch.inference_mode(False), torch.no_grad():
        exponents = torch.arange(0, size, 2, dtype=torch.float64) / size
        angles = torch.outer(torch.arange(length, dtype=torch.float64), theta**-exponents)[:, None]
        cos, sin = angles.cos(), angles.sin()
        tables = (torch.cat((cos, cos), dim=-1), torch.cat((-sin, sin), dim=-1))
        on_device = [table.to(device, dtype).expand(-1, heads, -1).contiguous() for table in tables]
        return on_device[0], on_device[1]


class ShortConvolution(nn.Module):
    """Causal depthwise convolution along T, then SiLU; no bias."""

    def __init__(self, channels: int, width: int) -> None:
        super().__init__()
        self.width = width
        self.weight = nn.Parameter(torch.empty(width, channels))

    def forward(self, x: Tensor, tail: ConvolutionTail | None = None) -> Tensor:
        """Whole sequences [B, T, C] from their first token; `tail` is filled with the last inputs."""
        if tail is not None:
            tail.follow(x)
        return dispatch.short_conv(x, self.weight)

    def step(self, x: Tensor, tail: ConvolutionTail) -> Tensor:
        """One token [B, C]; `tail` is advanced."""
        y, tail.inputs = dispatch.short_conv_step(x, self.weight, tail.inputs)
        return y


class DecayGate(nn.Module):
    """Log decay of a head, -exp(A_log) softplus(a + dt_bias) <= 0, as in Mamba-2 (2405.21060) and Gated DeltaNet."""

    def __init__(self, heads: int) -> None:
        super().__init__()
        self.a_log = nn.Parameter(torch.empty(heads))
        self.dt_bias = nn.Parameter(torch.empty(heads))

    def forward(self, a: Tensor) -> Tensor:
        """[..., heads] in the model's dtype -> [..., heads] in float32 (float64 in a float64 model)."""
        wide = torch.promote_types(a.dtype, torch.float32)
        return -self.a_log.to(wide).exp() * F.softplus(a.to(wide) + self.dt_bias)


class GatedNorm(nn.Module):
    """RMS norm of every head's output, multiplied by SiLU of a gate if there is one."""

    def __init__(self, value_size: int) -> None:
        super().__init__()
        self.norm = RMSNorm(value_size)

    def forward(self, o: Tensor, gate: Tensor | None) -> Tensor:
        """[..., H, V] and the gate [..., H V] or none -> [..., H V]."""
        if gate is None:
            normed: Tensor = self.norm(o)
            return normed.flatten(-2)
        gate = torch.unflatten(gate, -1, o.shape[-2:])
        return dispatch.gated_rms_norm(o, self.norm.weight, gate, EPSILON).flatten(-2)


class SwiGLU(nn.Module):
    """Gated feed-forward: down(SiLU(gate x) * up x) (Shazeer, 2002.05202); gate and up are one matrix."""

    def __init__(self, width: int, inner: int) -> None:
        super().__init__()
        self.gate_up = nn.Linear(width, 2 * inner, bias=False)
        self.down = nn.Linear(inner, width, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """[..., width] -> [..., width]."""
        gate, up = self.gate_up(x).chunk(2, dim=-1)
        y: Tensor = self.down(F.silu(gate) * up)
        return y
