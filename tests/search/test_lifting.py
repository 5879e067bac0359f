"""Values of lower rungs, lifted by what they have meant so far."""

import random

import pytest

from hybridsearch.objectives import Direction, Score
from hybridsearch.search.history import Cohort, Observation
from hybridsearch.search.lifting import PAIRS, lifted
from hybridsearch.trial import TrialState

BOTH: tuple[Direction, Direction] = ("maximize", "maximize")


def observed(trial: int, early: float, final: float | None) -> Observation:
    rungs = {0: Score(values=(early, 100.0), directions=BOTH)}
    score = None if final is None else Score(values=(final, 100.0), directions=BOTH)
    return Observation(
        trial=trial,
        hash=str(trial),
        architecture="",
        state=TrialState.PAUSED if score is None else TrialState.FINISHED,
        score=score,
        rung_scores=rungs if score is None else {**rungs, 1: score},
        sampler="random",
    )


def test_a_lower_rungs_value_is_lifted_by_what_it_has_meant_so_far() -> None:
    rng = random.Random(2)
    finals = [rng.random() for _ in range(11)]
    cohort = Cohort(1, [observed(n, 3.0 - 2.0 * final, final) for n, final in enumerate(finals)])
    ((_, values, variance),) = lifted([observed(11, 2.0, None)], cohort)
    assert values[0] == pytest.approx(0.5)
    assert variance[0] == pytest.approx(0.0, abs=1e-12)
    ((_, values, _),) = lifted([observed(11, -9.0, None)], cohort)
    assert values[0] == max(finals)  # never better than what was seen


def test_too_few_trials_with_both_values_lift_nothing() -> None:
    members = [observed(n, 3.0, 0.1 * n) for n in range(PAIRS)]
    assert not lifted([observed(11, 2.0, None)], Cohort(1, members[1:]))
    assert len(lifted([observed(11, 2.0, None)], Cohort(1, members))) == 1
