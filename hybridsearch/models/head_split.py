"""Groups of heads side by side, each with its own mixer; one output projection (2510.04800)."""

from typing import Any

import torch
from torch import Tensor, nn

from hybridsearch.models.memory import MemoryGroup
from hybridsearch.models.mixer import Mixer
from hybridsearch.models.parts import RMSNorm


class HeadSplit(Mixer[MemoryGroup]):
    """Inner outputs of the branches, normed branch by branch, concatenated and projected once."""

    def __init__(self, branches: list[Mixer[Any]], width: int, *, normalise: bool = True, project: bool = True) -> None:
        """The branches come without output projections of their own."""
        super().__init__(width, sum(branch.value_width for branch in branches), project=project)
        self.branches = nn.ModuleList(branches)
        self.norms = nn.ModuleList([RMSNorm(branch.value_width) for branch in branches]) if normalise else None

    def empty_memory(self, batch: int) -> MemoryGroup:
        """The empty memories of all branches."""
        return MemoryGroup([branch.empty_memory(batch) for branch in self._mixers()])

    def inner(self, x: Tensor, memory: MemoryGroup | None = None) -> Tensor:
        """Whole sequences [B, T, width] -> [B, T, channels of all branches]."""
        parts: list[Any] = [None] * len(self.branches) if memory is None else memory.parts
        return self._joined([branch.inner(x, part) for branch, part in zip(self._mixers(), parts, strict=True)])

    def inner_step(self, x: Tensor, memory: MemoryGroup) -> Tensor:
        """One token [B, width] -> [B, channels of all branches]."""
        parts = zip(self._mixers(), memory.parts, strict=True)
        return self._joined([branch.inner_step(x, part) for branch, part in parts])

    def _joined(self, outputs: list[Tensor]) -> Tensor:
        if self.norms is not None:
            outputs = [norm(output) for norm, output in zip(self.norms, outputs, strict=True)]
        return torch.cat(outputs, -1)

    def _mixers(self) -> list[Mixer[Any]]:
        return [branch for branch in self.branches if isinstance(branch, Mixer)]
