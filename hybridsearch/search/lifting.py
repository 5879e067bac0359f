"""What the value of a lower rung says about a higher one: learned by regression on the trials that have both."""

from collections.abc import Sequence
from itertools import islice

import numpy as np

from hybridsearch.pareto.dominance import Floats
from hybridsearch.search.history import Cohort, Observation

PAIRS = 4
"""Trials with both values before a line is drawn."""
LATEST = 160
"""Most trials that a line is drawn through."""


def lifted(below: Sequence[Observation], cohort: Cohort) -> list[tuple[Observation, Floats, Floats]]:
    """What trials of lower rungs are expected to reach at the cohort's rung, and the variance of that guess."""
    found = []
    lines: dict[int, tuple[Floats, ...] | None] = {}
    for observation in below:
        rung = max(observation.rung_scores)
        if rung not in lines:
            lines[rung] = _line(rung, cohort)
        line = lines[rung]
        if line is not None:
            slope, offset, variance, low, high = line
            values = np.array(observation.rung_scores[rung].values)
            found.append((observation, np.clip(slope * values + offset, low, high), variance))
    return found


def _line(rung: int, cohort: Cohort) -> tuple[Floats, ...] | None:
    """Per objective: slope, offset, residual variance, and the range of what was seen at the cohort's rung."""
    both = (o for o in reversed(cohort.members) if rung in o.rung_scores)
    pairs = [(o.rung_scores[rung].values, cohort.score(o).values) for o in islice(both, LATEST)][::-1]
    if len(pairs) < PAIRS:
        return None
    early, late = (np.array(values) for values in zip(*pairs, strict=True))
    centred = early - early.mean(axis=0)
    scatter = (centred**2).sum(axis=0)
    slope = np.where(scatter > 0, (centred * late).sum(axis=0) / np.where(scatter > 0, scatter, 1.0), 0.0)
    offset = late.mean(axis=0) - slope * early.mean(axis=0)
    variance = ((late - slope * early - offset) ** 2).sum(axis=0) / (len(pairs) - 2)
    return slope, offset, variance, late.min(axis=0), late.max(axis=0)
