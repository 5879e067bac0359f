"""One layer: norm, mixer, norm, feed-forward, each pair inside a residual connection."""

from typing import Any

from torch import Tensor, nn

from hybridsearch.models import catalog
from hybridsearch.models.memory import Memory
from hybridsearch.models.mixer import Mixer
from hybridsearch.models.parts import RMSNorm, SwiGLU
from hybridsearch.spec.architecture import Layer


class Block(nn.Module):
    """Pre-norm residual block; without a feed-forward its norm is left out too."""

    def __init__(self, layer: Layer, width: int) -> None:
        super().__init__()
        self.mixer_norm = RMSNorm(width)
        self.mixer: Mixer[Any] = catalog.mixer(layer.mixer, width)
        self.feed_forward_norm = RMSNorm(width) if layer.feed_forward else None
        self.feed_forward = SwiGLU(width, layer.feed_forward) if layer.feed_forward else None

    def forward(self, x: Tensor, memory: Memory | None = None) -> Tensor:
        """Whole sequences [B, T, width]; an empty `memory` is filled."""
        return self._feed_forward(x + self.mixer(self.mixer_norm(x), memory))

    def step(self, x: Tensor, memory: Memory) -> Tensor:
        """One token [B, width]; `memory` is advanced."""
        return self._feed_forward(x + self.mixer.step(self.mixer_norm(x), memory))

    def _feed_forward(self, x: Tensor) -> Tensor:
        if self.feed_forward is None or self.feed_forward_norm is None:
            return x
        y: Tensor = x + self.feed_forward(self.feed_forward_norm(x))
        return y
