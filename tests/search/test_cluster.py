"""The surrogate: it learns, takes lower rungs for what they are worth, and looks for hypervolume."""

import random
import statistics
from collections.abc import Callable

import numpy as np
import pytest

from hybridsearch.objectives import OBJECTIVES, Direction, Score
from hybridsearch.pareto.hypervolume import exclusive
from hybridsearch.search.cluster import _improvement, _lifted, cluster
from hybridsearch.search.history import Cohort, History, Observation
from hybridsearch.search.proposals import Request
from hybridsearch.search_spaces import sampling
from hybridsearch.search_spaces.space import Space
from hybridsearch.spec.architecture import Architecture
from hybridsearch.spec.canonical import canonical_json, content_hash
from hybridsearch.trial import TrialState

AXES = (OBJECTIVES["recall"], OBJECTIVES["decode_tokens_per_second"])
BOTH: tuple[Direction, Direction] = ("maximize", "maximize")
Share = Callable[[Architecture], float]


def test_it_proposes_what_is_better_than_all_it_was_told(
    layers: Space, random_history: Callable[[int], History], gated_share: Share
) -> None:
    history = random_history(40)
    proposals = cluster(history, Request(space=layers, objectives=AXES, seed=0, number=40, count=12))
    seen = [o.score.values[0] for o in history.finished if o.score is not None]
    proposed = [gated_share(proposal.architecture) for proposal in proposals]
    assert statistics.median(proposed) > np.quantile(seen, 0.9)
    assert max(proposed) == 1.0


def observed(
    trial: int, architecture: Architecture, early: float, final: float | None, state: TrialState
) -> Observation:
    rungs = {0: Score(values=(early, 100.0), directions=BOTH)}
    score = None if final is None else Score(values=(final, 100.0), directions=BOTH)
    return Observation(
        trial=trial,
        hash=content_hash(architecture),
        architecture=canonical_json(architecture),
        state=state,
        score=score,
        rung_scores=rungs if score is None else {**rungs, 1: score},
        sampler="random",
    )


@pytest.mark.parametrize("state", [TrialState.PAUSED, TrialState.STOPPED])
def test_lower_rungs_teach_what_finished_trials_cannot(layers: Space, gated_share: Share, state: TrialState) -> None:
    """Ten finished trials without gated delta say nothing of it; sixty that rest at the first rung do."""

    def told(below: int) -> float:
        rng = random.Random(5)
        history = History()
        while len(history) < 10 + below:
            architecture = sampling.sample(layers, rng)
            share = gated_share(architecture)
            if content_hash(architecture) in history.hashes or (len(history) < 10 and share > 0.3):
                continue
            finished = len(history) < 10
            final = share + rng.gauss(0, 0.01) if finished else None
            where = TrialState.FINISHED if finished else state
            history.record(observed(len(history), architecture, 7 + 0.5 * share, final, where))
        request = Request(space=layers, objectives=AXES, seed=1, number=len(history), count=8)
        return statistics.mean(gated_share(p.architecture) for p in cluster(history, request))

    assert told(60) > told(0)
    assert told(60) > 0.7


def test_a_lower_rungs_value_is_lifted_by_what_it_has_meant_so_far(layers: Space) -> None:
    rng = random.Random(2)
    pool = [sampling.sample(layers, rng) for _ in range(12)]
    finals = [rng.random() for _ in pool[:-1]]
    members = [
        observed(n, a, 3.0 - 2.0 * final, final, TrialState.FINISHED)
        for n, (a, final) in enumerate(zip(pool, finals, strict=False))
    ]
    ((_, values, variance),) = _lifted([observed(11, pool[-1], 2.0, None, TrialState.PAUSED)], Cohort(1, members))
    assert values[0] == pytest.approx(0.5)
    assert variance[0] == pytest.approx(0.0, abs=1e-12)
    ((_, values, _),) = _lifted([observed(11, pool[-1], -9.0, None, TrialState.PAUSED)], Cohort(1, members))
    assert values[0] == max(finals)  # never better than what was seen


def test_the_improvement_is_the_hypervolume_that_a_point_adds() -> None:
    numbers = np.random.default_rng(0)
    front = np.array([[0.2, 0.7], [0.5, 0.4], [0.8, 0.1]])
    worst = np.array([1.0, 1.0])
    points = numbers.random((12, 2))
    exact = np.array([exclusive(point, front, (1.0, 1.0)) for point in points])
    estimates = [_improvement(points[None], front, worst, np.random.default_rng(seed)) for seed in range(200)]
    found = np.mean(estimates, axis=0)
    assert np.corrcoef(found, exact)[0, 1] > 0.999
    assert (found[exact == 0] == 0).all()
