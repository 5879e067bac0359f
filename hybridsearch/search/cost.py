"""What a candidate will cost beside others, so that a worker's hour goes where it adds most.

Learned from the seconds that trials took to their first rung; the number of layers until there are enough of them.
Only ratios count: what a trial costs from there on is taken to grow alike.
"""

from collections.abc import Callable, Iterable
from operator import attrgetter

import numpy as np

from hybridsearch.pareto.dominance import Floats
from hybridsearch.search.chain import GROUPS, chain_of, row_of
from hybridsearch.search.history import Observation
from hybridsearch.search.regression import fit
from hybridsearch.search_spaces.space import Space

ENOUGH = 4
"""Timed trials before there is a model of seconds."""
LATEST = 80
"""Most trials that it is fitted to."""
BEYOND = 2.0
"""Times the largest seconds that were seen, and part of the least: nothing is foretold outside of that."""


def cost_of(trials: Iterable[Observation], space: Space) -> Callable[[Floats], Floats]:
    """A function of terms (n, terms) that gives relative costs (n,), all above 0."""
    chain = chain_of(space)
    timed = sorted((o for o in trials if o.seconds > 0), key=attrgetter("trial"))[-LATEST:]
    known = [(row, o.seconds) for o in timed if (row := row_of(space, o.architecture)) is not None]
    if len(known) < ENOUGH:
        layers = [chain.names.index(f"count {group}") for group in GROUPS]
        return lambda rows: rows[:, layers].sum(axis=1)
    seconds = np.array([second for _, second in known])
    model = fit(np.array([row for row, _ in known]), seconds, chain.spreads)
    low, high = seconds.min() / BEYOND, seconds.max() * BEYOND
    return lambda rows: np.clip(model.values(rows, model.mean[None])[0], low, high)
