"""The tasks by the name that `settings.TaskSettings` gives them."""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from hybridsearch.settings import RecallLevel, TaskSettings
from hybridsearch.tasks import recall


@dataclass(frozen=True, slots=True)
class Task:
    """How one task makes its data."""

    batch: Callable[[RecallLevel, TaskSettings, int, torch.Generator], recall.Batch]
    """Level, settings, sequences, generator -> sequences with questions."""
    tokens: Callable[[TaskSettings, int, int, torch.Generator], Tensor]
    """Settings, sequences, length, generator -> [sequences, length] tokens for timing."""


TASKS: dict[str, Task] = {"recall": Task(batch=recall.batch, tokens=recall.tokens)}
