"""The ladder that a trial climbs, and how many of those that reach a rung may go on."""

import math
from dataclasses import dataclass

from hybridsearch.errors import InvalidSetting
from hybridsearch.settings import EvaluationSettings, SearchSettings, Stopping, TieRule
from hybridsearch.trial import Fidelity


@dataclass(frozen=True, slots=True, kw_only=True)
class Ladder:
    """Rungs of a study and the rule of its early stopping."""

    fidelities: tuple[Fidelity, ...]
    """Cheapest first; the last is full training."""
    reduction: float
    """Of those that reach a rung, one in `reduction` goes on."""
    warmup_steps: float
    """Optimiser steps over which the learning rate rises; no trial is stopped inside them."""
    stopping: Stopping = "stop"
    """`off` lets every trial climb to the top."""
    ties: TieRule = "crowding"
    """Order inside a front."""
    margin: float = 1.0
    """Combined standard errors by which a trial must be better to dominate another."""

    @classmethod
    def of(
        cls,
        evaluation: EvaluationSettings,
        *,
        stopping: Stopping | bool = "stop",
        ties: TieRule = "crowding",
        margin: float = 1.0,
    ) -> "Ladder":
        """The ladder of an evaluation; `stopping` may be said as yes (`stop`) or no (`off`)."""
        if isinstance(stopping, bool):
            stopping = "stop" if stopping else "off"
        return cls(
            fidelities=evaluation.rungs.ladder,
            reduction=evaluation.rungs.reduction,
            warmup_steps=evaluation.training.warmup * evaluation.rungs.steps[-1],
            stopping=stopping,
            ties=ties,
            margin=margin,
        )

    @classmethod
    def of_search(cls, settings: SearchSettings) -> "Ladder":
        """The ladder that a study's settings describe."""
        return cls.of(settings.evaluation, stopping=settings.stopping, ties=settings.ties, margin=settings.margin)

    def at(self, rung: int) -> Fidelity:
        """The fidelity of a rung.

        Raises:
            InvalidSetting: the ladder has no such rung.
        """
        if not 0 <= rung < len(self.fidelities):
            raise InvalidSetting(f"rung {rung} is not on the ladder; it has rungs 0 to {len(self.fidelities) - 1}")
        return self.fidelities[rung]

    @property
    def top(self) -> int:
        """The last rung; a confirmation is recorded as one more."""
        return len(self.fidelities) - 1

    def is_last(self, rung: int) -> bool:
        """Whether a trial that reaches this rung is finished."""
        return self.at(rung) == self.fidelities[-1]

    def remaining(self, reached: int | None) -> tuple[Fidelity, ...]:
        """Rungs still to climb after `reached`; all of them for a trial that reached none."""
        return self.fidelities[0 if reached is None else reached + 1 :]

    def keep(self, count: int) -> int:
        """How many of `count` results at a rung go on.

        Rounded up where the others are stopped, so that the first arrival goes on; rounded down where they only pause
        (ASHA, 1810.05934), because the first arrival can wait for the second.
        """
        share = count / self.reduction
        return math.floor(share) if self.stopping == "promote" else math.ceil(share)
