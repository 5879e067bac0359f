"""Asynchronous successive halving on several objectives: who goes on from a rung, and why.

A trial that reaches a rung is ranked at once among all results recorded there: by non-dominated front, constraint
violations first, and inside a front by crowding distance or farthest-first order (after MO-ASHA, Schmucker et al.,
2106.12639). It goes on when its position is within the best one in `reduction`. The others are stopped, or, under
`promote`, pause: whenever a worker is free, the best paused trial of the highest rung that has come within that share
goes on before anything new is tried (ASHA, 1810.05934). The answers depend on recorded scores alone: a search that is
resumed decides as one that was never interrupted.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from enum import StrEnum

import numpy as np

from hybridsearch.pareto.crowding import distances
from hybridsearch.pareto.dominance import Ints, ranks
from hybridsearch.pareto.epsilon_net import net_order
from hybridsearch.search.history import Entry, History
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


def decide(recorded: Iterable[Entry], own: Entry, rung: int, ladder: Ladder) -> Decision:
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
    entries = [entry for entry in recorded if entry.trial != own.trial]
    entries = sorted([*entries, own], key=lambda entry: entry.trial)
    index = next(i for i, entry in enumerate(entries) if entry is own)
    fronts = _fronts(entries)
    position = _position(entries, fronts, index, ladder.ties)
    standing = _standing(fronts, index, position)
    keep = ladder.keep(len(entries))
    if ladder.is_last(rung):
        action, why = Action.FINISH, f"{standing}, the last rung"
    elif own.control:
        action, why = Action.CONTINUE, f"{standing}, a control always goes on"
    elif ladder.stopping == "off":
        action, why = Action.CONTINUE, f"{standing}, early stopping is off"
    elif fidelity.steps <= ladder.warmup_steps:
        action, why = Action.CONTINUE, f"{standing}, nobody stops in the first {ladder.warmup_steps:g} steps (warm-up)"
    else:
        loser = Action.PAUSE if ladder.stopping == "promote" else Action.STOP
        action, why = Action.CONTINUE if position <= keep else loser, f"{standing}, {_share(keep)}"
    return Decision(
        action=action,
        rung=rung,
        rank=int(fronts[index]) + 1,
        position=position,
        of=len(entries),
        reason=f"rung {rung}: {why}",
    )


def promotion(history: History, ladder: Ladder, waiting: Iterable[int]) -> tuple[int, Decision] | None:
    """The paused trial that a free worker should take, and why; none if all have to wait.

    Args:
        history: all trials.
        ladder: the study's rungs and stopping rule.
        waiting: numbers of the trials that pause at a rung.
    """
    by_rung: dict[int, set[int]] = {}
    for trial in waiting:
        by_rung.setdefault(max(history.of(trial).rung_scores), set()).add(trial)
    for rung in sorted(by_rung, reverse=True):
        found = _promotion_at(history.entries(rung), by_rung[rung], rung, ladder)
        if found is not None:
            return found
    return None


def left_behind(history: History, trial: int, ladder: Ladder) -> Decision:
    """Why a trial that waits at a rung ends there: the search is over, and its place never came."""
    rung = max(history.of(trial).rung_scores)
    entries = history.entries(rung)
    fronts = _fronts(entries)
    index = next(i for i, entry in enumerate(entries) if entry.trial == trial)
    position = _position(entries, fronts, index, ladder.ties)
    reason = f"rung {rung}: {_standing(fronts, index, position)}, {_share(ladder.keep(len(entries)))}, search is over"
    rank = int(fronts[index]) + 1
    return Decision(action=Action.STOP, rung=rung, rank=rank, position=position, of=len(entries), reason=reason)


def _promotion_at(entries: list[Entry], waiting: set[int], rung: int, ladder: Ladder) -> tuple[int, Decision] | None:
    keep = ladder.keep(len(entries))
    if keep == 0:
        return None
    fronts = _fronts(entries)
    order = _leaders(entries, fronts, keep, ladder.ties)
    for position, index in enumerate(order[:keep], start=1):
        if entries[index].trial in waiting:
            reason = f"rung {rung}: {_standing(fronts, index, position)}, {_share(keep)}"
            rank = int(fronts[index]) + 1
            return entries[index].trial, Decision(
                action=Action.PROMOTE, rung=rung, rank=rank, position=position, of=len(entries), reason=reason
            )
    return None


def _fronts(entries: Sequence[Entry]) -> Ints:
    return ranks([entry.score.minimised for entry in entries], [entry.score.violation for entry in entries])


def _inside(entries: Sequence[Entry], beside: Ints, ties: TieRule) -> Ints:
    """The members of one front, best first; equals go to the lower trial number."""
    values = [entries[index].score.minimised for index in beside]
    order = net_order(values) if ties == "epsilon_net" else np.argsort(-distances(values), kind="stable")
    ordered: Ints = beside[order]
    return ordered


def _position(entries: Sequence[Entry], fronts: Ints, own: int, ties: TieRule) -> int:
    """Place of entry `own`, counted from 1."""
    inside = _inside(entries, np.flatnonzero(fronts == fronts[own]), ties)
    return int(np.count_nonzero(fronts < fronts[own]) + np.flatnonzero(inside == own)[0]) + 1


def _leaders(entries: Sequence[Entry], fronts: Ints, count: int, ties: TieRule) -> list[int]:
    """Indices of at least `count` leading entries, best first."""
    order: list[int] = []
    for front in range(int(fronts.max(initial=-1)) + 1):
        order += _inside(entries, np.flatnonzero(fronts == front), ties).tolist()
        if len(order) >= count:
            break
    return order


def _standing(fronts: Ints, own: int, position: int) -> str:
    count = int(fronts.max()) + 1
    return f"rank {int(fronts[own]) + 1} of {count} front{'s' * (count > 1)}, position {position} of {len(fronts)}"


def _share(keep: int) -> str:
    return f"top {keep} {'goes' if keep == 1 else 'go'} on"
