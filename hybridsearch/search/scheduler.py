"""Asynchronous successive halving on several objectives: who goes on from a rung, and why.

A trial that reaches a rung is ranked at once among all results recorded there: by non-dominated front, constraint
violations first, and inside a front by crowding distance (after MO-ASHA, Schmucker et al., 2106.12639). It goes on
when its position is within the best one in `reduction`; nobody waits, so the first arrivals go on. The answer
depends on recorded scores alone: a search that is resumed decides as one that was never interrupted.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from enum import StrEnum

import numpy as np

from hybridsearch.pareto.crowding import distances
from hybridsearch.pareto.dominance import ranks
from hybridsearch.search.history import Entry
from hybridsearch.search.rungs import Ladder


class Action(StrEnum):
    """What becomes of a trial at a rung."""

    CONTINUE = "continue"
    STOP = "stop"
    FINISH = "finish"
    """It reached the last rung."""


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
    rank, fronts, position = _place(entries, next(i for i, entry in enumerate(entries) if entry is own))
    keep = ladder.keep(len(entries))
    standing = f"rank {rank} of {fronts} front{'s' * (fronts > 1)}, position {position} of {len(entries)}"
    if ladder.is_last(rung):
        action, why = Action.FINISH, f"{standing}, the last rung"
    elif own.control:
        action, why = Action.CONTINUE, f"{standing}, a control always goes on"
    elif not ladder.stopping:
        action, why = Action.CONTINUE, f"{standing}, early stopping is off"
    elif fidelity.steps <= ladder.warmup_steps:
        action, why = Action.CONTINUE, f"{standing}, nobody stops in the first {ladder.warmup_steps:g} steps (warm-up)"
    else:
        action = Action.CONTINUE if position <= keep else Action.STOP
        why = f"{standing}, top {keep} {'goes' if keep == 1 else 'go'} on"
    return Decision(
        action=action, rung=rung, rank=rank, position=position, of=len(entries), reason=f"rung {rung}: {why}"
    )


def _place(entries: list[Entry], own: int) -> tuple[int, int, int]:
    """Front of entry `own`, number of fronts and position, all counted from 1; equals go to the lower trial number."""
    values = [entry.score.minimised for entry in entries]
    fronts = ranks(values, [entry.score.violation for entry in entries])
    front = int(fronts[own])
    beside = np.flatnonzero(fronts == front)
    room = distances([values[index] for index in beside])
    mine = int(np.flatnonzero(beside == own)[0])
    ahead = np.count_nonzero(room > room[mine]) + np.count_nonzero(room[:mine] == room[mine])
    position = int(np.count_nonzero(fronts < front) + ahead) + 1
    return front + 1, int(fronts.max()) + 1, position
