"""Plans that break a rule are walked, step by step, to one that breaks none."""

from __future__ import annotations

from random import Random
from typing import TYPE_CHECKING

from hybridsearch.search_spaces import steps
from hybridsearch.search_spaces.plan import Plan
from hybridsearch.search_spaces.rules import Verdict, judge

if TYPE_CHECKING:
    from hybridsearch.search_spaces.space import Space

PATIENCE = 30
"""Steps without progress, per layer and menu entry, that end a walk: a given layer's change is one in about
10 kinds of step x layers x entries."""
MOST_PATIENCE = 600


def repair(space: Space, plan: Plan, rng: Random) -> Verdict:
    """The plan itself if it breaks nothing, else the best one found nearby.

    Steps that do not raise the summed excess are taken.
    """
    best = judge(space, plan)
    idle, patience = 0, min(MOST_PATIENCE, PATIENCE * (plan.depth + len(space.mixers)))
    while best.faults and idle < patience:
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
