"""The one interface of every mixer module: whole sequence, prompt with memory, single token."""

from abc import abstractmethod
from typing import Generic, TypeVar

from torch import Tensor, nn

from hybridsearch.models.memory import Memory

M = TypeVar("M", bound=Memory)


class Mixer(nn.Module, Generic[M]):
    """Maps the normed residual stream [B, T, width] to [B, T, width], mixing along T and never looking ahead.

    A mixer computes its `inner` output of `value_width` channels and projects it. A head split takes `inner` of its
    branches and projects once, so it builds them with `project=False`, without `output`.
    """

    def __init__(self, width: int, value_width: int, *, project: bool = True) -> None:
        super().__init__()
        self.width, self.value_width = width, value_width
        self.output = nn.Linear(value_width, width, bias=False) if project else None

    @abstractmethod
    def empty_memory(self, batch: int) -> M:
        """Memory of `batch` sequences before their first token, on the device and in the dtype of the weights."""

    @abstractmethod
    def inner(self, x: Tensor, memory: M | None = None) -> Tensor:
        """Whole sequences [B, T, width] -> [B, T, value_width]; an empty `memory` is filled for decoding on."""

    @abstractmethod
    def inner_step(self, x: Tensor, memory: M) -> Tensor:
        """One more token [B, width] -> [B, value_width]; `memory` is advanced in place."""

    def forward(self, x: Tensor, memory: M | None = None) -> Tensor:
        """`inner`, projected to [B, T, width]."""
        return self._project(self.inner(x, memory))

    def step(self, x: Tensor, memory: M) -> Tensor:
        """`inner_step`, projected to [B, width]."""
        return self._project(self.inner_step(x, memory))

    def _project(self, inner: Tensor) -> Tensor:
        if self.output is None:
            raise RuntimeError("this mixer is a branch of a head split, which projects for it")
        projected: Tensor = self.output(inner)
        return projected
