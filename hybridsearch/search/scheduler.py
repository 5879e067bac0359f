"""Asynchronous successive halving on several objectives: who goes on from a rung, and why.

A trial that reaches a rung is ranked at once among all results recorded there: by non-dominated front, constraint
violations first, and inside a front by crowding distance or farthest-first order (after MO-ASHA, Schmucker et al.,
2106.12639). Where several seeds say how uncertain a value is, only a clear difference dominates. A trial goes on when
its position is within the best one in `reduction`. The others are stopped, or, under `promote`, pause: whenever a
worker is free, the best paused trial of the highest rung that has come within that share goes on before anything new
is tried (ASHA, 1810.05934). The answers depend on recorded scores alone: a search that is resumed decides as one that
was never interrupted.
"""

from collections.abc import Iterable, Set
from dataclasses import dataclass
from enum import StrEnum

import numpy as np

from hybridsearch.pareto.crowding import distances
from hybridsearch.pareto.epsilon_net import net_order
from hybridsearch.search.history import History
from hybridsearch.search.results import Entry, Results
from hybridsearch.search.rungs import Ladder
from hybridsearch.settings import TieRule


class Action(StrEnum):
    """What becomes of a trial at a rung."""

    CONTINUE = "continue"
    PAUSE = "pause"
    """It waits with its checkpoint; later results may let it go on."""
    STOP = "stop"
    FINISH = "finish"
    """It reached the last rung."""
    PROMOTE = "promote"
    """It waited, and goes on now."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Decision:
    """The answer for one trial at one rung, with the numbers behind it."""

    action: Action
    rung: int
    rank: int
    """Number of its front among the results at this rung, 1 the best."""
    position: int
    """Place among the results at this rung, 1 the best."""
    of: int
    """Results at this rung, its own among them."""
    reason: str
    """A sentence for people, e.g. `rung 1: rank 3 of 4 fronts, position 7 of 9, top 5 go on`."""


def decide(recorded: Iterable[Entry] | Results, own: Entry, rung: int, ladder: Ladder) -> Decision:
    """Whether a trial goes on from a rung.

    Args:
        recorded: the results of other trials at this rung so far; an older entry of the same trial is replaced.
        own: the result that has just come in.
        rung: the rung it was reported at.
        ladder: the study's rungs and stopping rule.

    Raises:
        InvalidSetting: the ladder has no such rung, or a score is NaN.
    """
    fidelity = ladder.at(rung)
    results = recorded if isinstance(recorded, Results) else Results(e for e in recorded if e.trial != own.trial)
    results.layers(ladder.margin)  # kept where the next decision finds them
    results = results.copy()
    results.record(own)
    place = _Place(results, own, ladder)
    keep = ladder.keep(len(results))
    if ladder.is_last(rung):
        action, why = Action.FINISH, f"{place}, the last rung"
    elif own.control:
        action, why = Action.CONTINUE, f"{place}, a control always goes on"
    elif ladder.stopping == "off":
        action, why = Action.CONTINUE, f"{place}, early stopping is off"
    elif fidelity.steps <= ladder.warmup_steps:
        action, why = Action.CONTINUE, f"{place}, nobody stops in the first {ladder.warmup_steps:g} steps (warm-up)"
    else:
        loser = Action.PAUSE if ladder.stopping == "promote" else Action.STOP
        action, why = Action.CONTINUE if place.position <= keep else loser, f"{place}, {_share(keep)}"
    return place.decision(action, rung, why)


def promotion(history: History, ladder: Ladder, waiting: Set[int]) -> tuple[int, Decision] | None:
    """The paused trial that a free worker should take, and why; none if all have to wait.

    Args:
        history: all trials.
        ladder: the study's rungs and stopping rule.
        waiting: numbers of the trials that pause at a rung.
    """
    for rung in reversed(range(len(ladder.fidelities))):
        found = _best_waiting(history, rung, waiting, ladder) if waiting else None
        if found is not None:
            why = f"{found}, {_share(ladder.keep(found.of))}"
            return found.trial, found.decision(Action.PROMOTE, rung, why)
    return None


def left_behind(history: History, trial: int, ladder: Ladder) -> Decision:
    """Why a trial that waits at a rung ends there: the search is over, and its place never came."""
    rung = max(history.of(trial).rung_scores)
    results = history.results(rung)
    place = _Place(results, results.entry(trial), ladder)
    return place.decision(Action.STOP, rung, f"{place}, {_share(ladder.keep(place.of))}, search is over")


class _Place:
    """Where a trial stands among the results of a rung."""

    def __init__(self, results: Results, own: Entry, ladder: Ladder) -> None:
        layers = results.layers(ladder.margin)
        stands = layers.standing(results.place(own))
        inside = _inside(results, stands.beside, ladder.ties)
        self.trial, self.of = own.trial, len(results)
        self.rank, self.fronts = stands.front + 1, len(layers)
        self.position = stands.ahead + inside.index(own.trial) + 1

    def __str__(self) -> str:
        fronts = f"{self.fronts} front{'s' * (self.fronts > 1)}"
        return f"rank {self.rank} of {fronts}, position {self.position} of {self.of}"

    def decision(self, action: Action, rung: int, why: str) -> Decision:
        return Decision(
            action=action, rung=rung, rank=self.rank, position=self.position, of=self.of, reason=f"rung {rung}: {why}"
        )


def _best_waiting(history: History, rung: int, waiting: Set[int], ladder: Ladder) -> _Place | None:
    """The best of those that wait at a rung, if it stands within the share that goes on."""
    results, paused = history.results(rung), history.paused(rung)
    keep, ahead = ladder.keep(len(results)), 0
    for front in results.layers(ladder.margin) if paused and keep else ():
        if any(trial in waiting for trial in paused & set(front)):
            inside = _inside(results, front, ladder.ties)
            place, best = next((n, t) for n, t in enumerate(inside, start=1) if t in paused and t in waiting)
            return _Place(results, results.entry(best), ladder) if ahead + place <= keep else None
        ahead += len(front)
        if ahead >= keep:
            return None
    return None


def _inside(results: Results, front: Iterable[int], ties: TieRule) -> list[int]:
    """The trials of one front, best first; equals go to the lower trial number."""
    trials = np.sort(np.fromiter(front, dtype=np.int64))
    values = results.values[np.searchsorted(results.trials, trials)]
    order = net_order(values) if ties == "epsilon_net" else np.argsort(-distances(values), kind="stable")
    ordered: list[int] = trials[order].tolist()
    return ordered


def _share(keep: int) -> str:
    return f"top {keep} {'goes' if keep == 1 else 'go'} on"
