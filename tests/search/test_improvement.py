"""Improvements by random directions, beside exact ones."""

import numpy as np
import pytest

from hybridsearch.pareto.dominance import Floats
from hybridsearch.pareto.hypervolume import exclusive
from hybridsearch.search.improvement import improvement

FRONT = np.array([[0.2, 0.7], [0.5, 0.4], [0.8, 0.1]])
WORST = np.array([1.0, 1.0])


def estimated(points: Floats, pending: Floats) -> Floats:
    """Mean over many directions, of one draw."""
    seeds = [np.random.default_rng(seed) for seed in range(200)]
    found: Floats = np.mean([improvement(points[None], FRONT, WORST, rng, pending[None]) for rng in seeds], axis=0)
    return found


@pytest.mark.parametrize("pending", [[], [[0.3, 0.3]], [[0.1, 0.9], [0.6, 0.05]]])
def test_the_improvement_is_the_hypervolume_that_a_point_adds_to_front_and_pending_ones(
    pending: list[list[float]],
) -> None:
    points = np.random.default_rng(0).random((12, 2))
    waiting = np.array(pending).reshape(-1, 2)
    exact = np.array([exclusive(point, np.concatenate([FRONT, waiting]), (1.0, 1.0)) for point in points])
    found = estimated(points, waiting)
    assert np.corrcoef(found, exact)[0, 1] > 0.999
    assert (found[exact == 0] == 0).all()


def test_draws_of_pending_trials_belong_to_the_same_draws_of_candidates() -> None:
    """In each draw either of two things is good: the pending one, or the candidate that is like the other."""
    good, bad = [0.1, 0.1], [0.9, 0.9]
    pending = np.array([[good], [bad]])
    draws = np.array([[good, bad], [bad, good]])  # the first candidate is the pending trial's twin
    twin, other = improvement(draws, FRONT, WORST, np.random.default_rng(0), pending)
    assert twin == 0
    assert other > 0
