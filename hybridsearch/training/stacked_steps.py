"""What the steps of a stack are made of: its members, their batches, and the optimiser with its schedule.

Everything lies on the device and is advanced there, so that a step can be captured as a CUDA graph.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import nn

from hybridsearch.seeds import derive
from hybridsearch.settings import EvaluationSettings
from hybridsearch.spec.architecture import Architecture
from hybridsearch.tasks.catalog import TASKS
from hybridsearch.tasks.recall import Batch
from hybridsearch.training.optimizer import BETAS, factor


@dataclass(frozen=True, slots=True, kw_only=True)
class Member:
    """One model of the stack."""

    architecture: Architecture
    seed: int
    """Root of its random streams, as a trial's."""


class Schedule:
    """The optimiser of a stack, with its learning rates and their schedule on the device."""

    def __init__(
        self,
        embedding: nn.Parameter,
        others: Sequence[nn.Parameter],
        evaluation: EvaluationSettings,
        device: torch.device,
    ) -> None:
        training, last = evaluation.training, evaluation.rungs.steps[-1]
        peaks = [training.learning_rates[0] * factor(step, last, training.warmup) for step in range(last)]
        self._rates = torch.tensor(peaks, device=device)
        self._step = torch.zeros(1, dtype=torch.int64, device=device)
        # A stacked weight has one axis more than a member's: what is a vector there has two here.
        kinds = (
            ([embedding], training.weight_decay, training.embedding_factor),
            ([p for p in others if p.dim() >= 3], training.weight_decay, 1.0),
            ([p for p in others if p.dim() < 3], 0.0, 1.0),
        )
        self._factors = [share for parameters, _, share in kinds if parameters]
        groups = [
            {"params": parameters, "weight_decay": decay, "lr": self._rates[0].clone()}
            for parameters, decay, _ in kinds
            if parameters
        ]
        self._optimizer = torch.optim.AdamW(
            groups, lr=self._rates[0].clone(), betas=BETAS, fused=True, capturable=device.type == "cuda"
        )

    def advance(self) -> None:
        """One step of the optimiser, at the schedule's next rate."""
        rate = self._rates.index_select(0, self._step)[0]
        for group, share in zip(self._optimizer.param_groups, self._factors, strict=True):
            group["lr"].copy_(rate * share)
        self._optimizer.step()
        self._step += 1


class Data:
    """The batches of all steps, one stream a seed, as `replicate.Replicate` draws them."""

    def __init__(self, members: Sequence[Member], evaluation: EvaluationSettings, device: torch.device) -> None:
        seeds = sorted({member.seed for member in members})
        self.everyone = torch.arange(len(members), device=device)
        self._seed = torch.tensor([seeds.index(member.seed) for member in members], device=device)
        levels = len(evaluation.task.train)
        self._batches = [_batches(seeds, level, evaluation, device) for level in range(levels)]
        self._next = [torch.zeros(1, dtype=torch.int64, device=device) for _ in range(levels)]

    def next_batch(self, level: int) -> Batch:
        """[N, B, ...] of the next step of a level."""
        made, at = self._batches[level], self._next[level]
        drawn = (x.index_select(1, at)[:, 0].index_select(0, self._seed) for x in (made.tokens, made.positions))
        tokens, positions = drawn
        answers = made.answers.index_select(1, at)[:, 0].index_select(0, self._seed)
        at += 1
        return Batch(tokens, positions, answers)


def _batches(seeds: Sequence[int], level: int, evaluation: EvaluationSettings, device: torch.device) -> Batch:
    """[seeds, steps of this level, B, ...]."""
    task, generator = evaluation.task, torch.Generator(device)
    made = []
    for seed in seeds:
        for step in range(level, evaluation.rungs.steps[-1], len(task.train)):
            generator.manual_seed(derive(seed, "data", 0, step))
            batch = TASKS[task.name].batch(task.train[level], task, evaluation.training.batch, generator)
            made.append((batch.tokens, batch.positions, batch.answers))
    return Batch(*(torch.unflatten(torch.stack(parts), 0, (len(seeds), -1)) for parts in zip(*made, strict=True)))
