"""The surrogate: it learns, takes lower rungs for what they are worth, and looks for hypervolume."""

import random
import statistics
from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest

from hybridsearch.objectives import OBJECTIVES, Direction, Score
from hybridsearch.search.cluster import cluster
from hybridsearch.search.history import History, Observation
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


def test_of_alike_candidates_it_proposes_those_that_train_fastest(layers: Space, gated_share: Share) -> None:
    """Both objectives are the same everywhere; a gated-delta layer takes ten times as long as any other."""

    def told(seconds: Share) -> float:
        rng, history = random.Random(6), History()
        while len(history) < 30:
            architecture = sampling.sample(layers, rng)
            if content_hash(architecture) not in history.hashes:
                seen = observed(len(history), architecture, 3.0, rng.gauss(0.5, 0.1), TrialState.FINISHED)
                history.record(replace(seen, seconds=seconds(architecture)))
        request = Request(space=layers, objectives=AXES, seed=2, number=30, count=16)
        return statistics.mean(gated_share(p.architecture) for p in cluster(history, request))

    assert told(lambda a: 1 + 9 * gated_share(a)) < told(lambda _: 1.0) - 0.05
