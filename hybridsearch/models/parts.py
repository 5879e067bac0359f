"""What mixers and blocks are made of: norms, rotary positions, short convolution, decay gate, SwiGLU."""

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
        return F.rms_norm(x, self.weight.shape, self.weight, EPSILON)


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
        return F.rms_norm(x, (self.size,), None, EPSILON) * torch.cat(rows)


def unit_length(x: Tensor) -> Tensor:
    """`x` / sqrt(sum x^2 + 1e-6) over the last axis, as one fused norm: rms_norm(x, 1e-6 / K) / sqrt(K)."""
    size = x.shape[-1]
    return F.rms_norm(x, (size,), None, EPSILON / size) * size**-0.5


class Rotary:
    """Rotary positions (Su et al., 2104.09864), halves paired: channel i turns with channel i + K/2.

    The table of angles is grown on demand and shared by no one; it is no parameter and no part of a checkpoint.
    """

    def __init__(self, head_dim: int, theta: float) -> None:
        self.head_dim, self.theta = head_dim, theta
        self._table: tuple[Tensor, Tensor] | None = None

    def __call__(self, x: Tensor, start: int = 0) -> Tensor:
        """Turn [B, T, H, K]; the first token stands at position `start`."""
        cos, sin = self._angles(start + x.shape[1], x)
        stop = start + x.shape[1]
        half = self.head_dim // 2
        turned = torch.cat((x[..., half:], x[..., :half]), dim=-1)
        return torch.addcmul(x * cos[start:stop], turned, sin[start:stop])

    def _angles(self, length: int, like: Tensor) -> tuple[Tensor, Tensor]:
        table = self._table
        if table is None or len(table[0]) < length or table[0].dtype != like.dtype or table[0].device != like.device:
            self._table = table = self._computed(-(-length // 256) * 256, like)
        return table

    def _computed(self, length: int, like: Tensor) -> tuple[Tensor, Tensor]:
        """cos and sin [length, 1, K]; sin carries the sign of the pairing."""
        exponents = torch.arange(0, self.head_dim, 2, dtype=torch.float64, device="cpu") / self.head_dim
        positions = torch.arange(length, dtype=torch.float64, device="cpu")
        angles = torch.outer(positions, self.theta**-exponents)[:, None]
        cos, sin = angles.cos(), angles.sin()
        halves = (torch.cat((cos, cos), dim=-1), torch.cat((-sin, sin), dim=-1))
        return halves[0].to(like.device, like.dtype), halves[1].to(like.device, like.dtype)


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
        normed: Tensor = self.norm(o).flatten(-2)
        return normed if gate is None else normed * F.silu(gate)


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
