"""The short training run: one architecture, all learning rates and seeds, from rung to rung.

A rung is scored when every replicate has reached it. The learning rate with the best mean recall counts (ties: lower
loss), and its seeds are the replicates of the report. Where the next rung has fewer learning rates, the best go on, and
the others' replicates are lost: a run that begins at a later rung without a snapshot makes the same choice on its way.
Nothing here knows a trial, a folder or a report.
"""

import math
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import groupby, pairwise
from typing import Protocol

import torch
from torch import Tensor

from hybridsearch.errors import FailureReason, TrialFailure, TrialPaused
from hybridsearch.models.language_model import LanguageModel
from hybridsearch.training import exclusive, scoring
from hybridsearch.training.replicate import Plan, Replicate, autocast
from hybridsearch.trial import Fidelity

STEPS_IN_A_ROW = 4
"""Steps between two looks at the turnstile: a measurer waits at most so long."""
STEPS_UNCHECKED = 50
"""Steps between two looks at the loss, each of which waits for the device."""
SECONDS_UNSAVED = 15.0
"""Work that a lost worker may lose, about."""
LEFT = "left behind: "
"""How the reason begins why a replicate of a learning rate that was not among the best is out of the race."""


@dataclass(frozen=True, slots=True)
class Snapshot:
    """All replicates at one moment."""

    tensors: Mapping[str, Tensor]
    """Weights and optimiser state, `<replicate>/<kind>/<parameter>`."""
    steps: tuple[int, ...]
    """Steps done, by replicate."""
    lost: tuple[str, ...]
    """Why a replicate is out of the race, or empty, by replicate."""


class Keeper(Protocol):
    """Where snapshots live."""

    def load(self) -> Snapshot | None:
        """The latest snapshot of this very run, or none."""

    def save(self, snapshot: Snapshot) -> None:
        """Replace the latest snapshot; after a crash either the old or the new one is there, whole."""


class Forgetful:
    """A keeper for runs that are never resumed."""

    def load(self) -> Snapshot | None:
        """None."""
        return None

    def save(self, snapshot: Snapshot) -> None:
        """Nothing."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Reached:
    """What a rung gave."""

    fidelity: Fidelity
    metrics: Mapping[str, float]
    """Means over the seeds of the chosen learning rate, and `learning_rate`."""
    replicates: Mapping[str, tuple[float, ...]]
    """The same by seed."""
    model: LanguageModel
    """First seed of the chosen learning rate; training goes on with it."""
    peak_bytes: int
    """Peak memory of the device so far; 0 on a CPU."""


@dataclass(slots=True)
class Surroundings:
    """What a run needs from outside: the slot it shares, where it is kept, who may end it, and a clock."""

    slot: exclusive.Slot
    keeper: Keeper = field(default_factory=Forgetful)
    look: Callable[[], None] = exclusive.nothing
    """Called every few steps; raises to end the run. Before a `TrialPaused` goes on, the run is saved."""
    clock: Callable[[], float] = time.monotonic


def train(plan: Plan, rungs: Sequence[Fidelity], around: Surroundings) -> Iterator[Reached]:
    """Train to each of `rungs` in turn, going on from the keeper's snapshot if there is one.

    The slot is left while the caller works on a rung, so that it may measure.

    Raises:
        TrialFailure: the loss of every learning rate is no longer a number.
        TrialPaused: the look around asked for it; the keeper has all work done so far.
    """
    run = _Run(plan, around)
    run.resume(rungs[0])
    for fidelity in rungs:
        with exclusive.training(around.slot):
            run.advance_all(fidelity)
            run.save()
            reached = run.scored(fidelity)
        yield reached


class _Run:
    def __init__(self, plan: Plan, around: Surroundings) -> None:
        self._plan, self._around = plan, around
        self._sets = scoring.test_sets(plan.evaluation.task, plan.device)
        self._saved = around.clock()
        if plan.device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(plan.device)
        self._start()

    def _start(self) -> None:
        settings, ladder = self._plan.evaluation.training, self._plan.evaluation.rungs.ladder
        most = max(self._seeds(fidelity) for fidelity in ladder)
        self._replicates = [
            Replicate(self._plan, rate, index) for rate in settings.learning_rates for index in range(most)
        ]
        self._scores: dict[Replicate, tuple[int, dict[str, float]]] = {}

    def _seeds(self, fidelity: Fidelity) -> int:
        return fidelity.seeds or self._plan.evaluation.training.seeds

    def _racing(self, fidelity: Fidelity) -> list[Replicate]:
        """The replicates that count at a rung; what joins at later ones begins there from the start."""
        ladder = self._plan.evaluation.rungs.ladder
        listed = self._plan.evaluation.training.learning_rates
        joined = listed[: max(f.learning_rates or len(listed) for f in ladder[: fidelity.rung + 1])]
        return [
            replicate
            for replicate in self._replicates
            if replicate.index < self._seeds(fidelity)
            and replicate.learning_rate in joined
            and not replicate.lost.startswith(LEFT)
        ]

    def resume(self, first: Fidelity) -> None:
        """Go on from the latest snapshot, unless it is already past the first rung that is asked for."""
        snapshot = self._around.keeper.load()
        if snapshot is None or len(snapshot.steps) != len(self._replicates) or max(snapshot.steps) > first.steps:
            return
        for number, replicate in enumerate(self._replicates):
            prefix = f"{number}/"
            own = {name.removeprefix(prefix): t for name, t in snapshot.tensors.items() if name.startswith(prefix)}
            replicate.restore(own, snapshot.steps[number])
            replicate.lost = snapshot.lost[number]

    def save(self) -> None:
        tensors = {
            f"{number}/{name}": tensor
            for number, replicate in enumerate(self._replicates)
            for name, tensor in replicate.tensors().items()
        }
        steps = tuple(replicate.step for replicate in self._replicates)
        self._around.keeper.save(Snapshot(tensors, steps, tuple(replicate.lost for replicate in self._replicates)))
        self._saved = self._around.clock()

    def advance_all(self, fidelity: Fidelity) -> None:
        """Train all that count at a rung to it, by way of the rungs below where learning rates are left behind."""
        for below, rung in pairwise((*self._plan.evaluation.rungs.ladder[: fidelity.rung], fidelity)):
            kept = rung.learning_rates
            if kept is not None and len(self._teams(self._racing(below))) > kept:
                self._advance(below)
                self._leave_behind(below, kept)
        self._advance(fidelity)

    def _leave_behind(self, fidelity: Fidelity, kept: int) -> None:
        """Put all but the best learning rates of a rung out of the race; one with a lost seed is the worst."""
        racing = self._racing(fidelity)
        scores = {replicate: self._score(replicate) for replicate in racing if not replicate.lost}

        def standing(team: list[Replicate]) -> tuple[float, ...]:
            return () if any(replicate.lost for replicate in team) else _standing([scores[r] for r in team])

        worst = sorted(self._teams(racing), key=standing, reverse=True)[kept:]
        rates = {team[0].learning_rate for team in worst}
        for replicate in self._replicates:
            if replicate.learning_rate in rates:
                said = f"learning rate {replicate.learning_rate:g} was not among the best {kept}"
                replicate.lost = f"{LEFT}{said} at {fidelity.steps} steps"

    def _advance(self, fidelity: Fidelity) -> None:
        steps, racing = fidelity.steps, self._racing(fidelity)
        for replicate in racing:
            while replicate.step < steps and not replicate.lost:
                loss = replicate.advance()
                if replicate.step % STEPS_UNCHECKED == 0 or replicate.step == steps:
                    _check(replicate, float(loss))
                if replicate.step % STEPS_IN_A_ROW == 0:
                    self._look_around()
        if all(replicate.lost for replicate in racing):
            raise TrialFailure(FailureReason.NOT_A_NUMBER, racing[0].lost)

    def _look_around(self) -> None:
        self._around.slot.pass_turnstile()
        try:
            self._around.look()
        except TrialPaused:
            self.save()
            raise
        if self._around.clock() - self._saved > SECONDS_UNSAVED:
            self.save()

    def scored(self, fidelity: Fidelity) -> Reached:
        """Score the rung's replicates and choose the learning rate; one with a lost seed is no choice."""
        racing = self._racing(fidelity)
        scores = {replicate: self._score(replicate) for replicate in racing if not replicate.lost}
        teams = [team for team in self._teams(racing) if not any(replicate.lost for replicate in team)]
        if not teams:
            raise TrialFailure(FailureReason.NOT_A_NUMBER, next(r.lost for r in racing if r.lost))
        best = max(teams, key=lambda team: _standing([scores[replicate] for replicate in team]))
        replicates = {name: tuple(scores[replicate][name] for replicate in best) for name in scores[best[0]]}
        metrics = {name: math.fsum(values) / len(values) for name, values in replicates.items()}
        return Reached(
            fidelity=fidelity,
            metrics={**metrics, "learning_rate": best[0].learning_rate},
            replicates=replicates,
            model=best[0].model,
            peak_bytes=_peak_bytes(self._plan.device),
        )

    def _teams(self, racing: Sequence[Replicate]) -> list[list[Replicate]]:
        """The seeds of each learning rate."""
        return [list(members) for _, members in groupby(racing, key=lambda replicate: replicate.learning_rate)]

    def _score(self, replicate: Replicate) -> dict[str, float]:
        """Its scores at its present step, found once."""
        step, metrics = self._scores.get(replicate, (-1, {}))
        if step == replicate.step:
            return metrics
        replicate.model.eval()
        with autocast(self._plan):
            metrics = scoring.score(replicate.model, self._sets)
        replicate.model.train()
        _check(replicate, metrics["answer_loss"])
        self._scores[replicate] = replicate.step, metrics
        return metrics


def _standing(scores: Sequence[Mapping[str, float]]) -> tuple[float, float]:
    """Mean recall, then mean loss turned round: larger is better."""
    count = len(scores)
    return sum(s["recall"] for s in scores) / count, -sum(s["answer_loss"] for s in scores) / count


def _check(replicate: Replicate, loss: float) -> None:
    if not math.isfinite(loss):
        replicate.lost = f"loss was {loss} by step {replicate.step} at learning rate {replicate.learning_rate:g}"


def _peak_bytes(device: torch.device) -> int:
    return torch.cuda.max_memory_allocated(device) if device.type == "cuda" else 0
