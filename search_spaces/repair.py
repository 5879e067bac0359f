"""Plans that break a rule are walked, step by step, to one that breaks none."""

from __future__ import annotations

from random import Random
from typing import TYPE_CHECKING

from hybridsearch.search_spaces import steps
from hybridsearch.search_spaces.plan import Plan
from hybridsearch.search_spaces.rules import Verdict, judge

if TYPE_CHECKING:
    from hybridsearch.search_spaces.space import Space

PATIENCE = 80


def repair(space: Space, plan: Plan, rng: Random) -> Verdict:
    """The plan itself if it breaks nothing, else the best one found nearby.

    Steps that do not raise the summed excess are taken; `PATIENCE` steps in a row without progress end the walk.
    """
    best = judge(space, plan)
    idle = 0
    while best.faults and idle < PATIENCE:
        idle += 1
        changed = steps.small_step(space, best.plan, rng)
        if changed is None:
            continue
        verdict = judge(space, changed)
        if verdict.excess < best.excess:
            idle = 0
        if verdict.excess <= best.excess:
            best = verdict
    return best
