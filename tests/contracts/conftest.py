"""Histories made of real architectures of a small real space."""

import random
from collections.abc import Callable

import pytest

from hybridsearch.objectives import Score
from hybridsearch.search.history import History, Observation
from hybridsearch.search_spaces import catalog, sampling
from hybridsearch.search_spaces.space import Space
from hybridsearch.spec.architecture import Architecture
from hybridsearch.spec.canonical import canonical_json, content_hash
from hybridsearch.trial import TrialState

Observe = Callable[..., Observation]


@pytest.fixture(scope="session")
def tiny() -> Space:
    return catalog.load("tiny")


@pytest.fixture(scope="session")
def observe() -> Observe:
    """An observation of an architecture; finished with `values` (recall, tokens/s) unless another state is given."""

    def observed(
        trial: int,
        architecture: Architecture,
        values: tuple[float, float] = (0.5, 100.0),
        state: TrialState = TrialState.FINISHED,
        control: str | None = None,
        violation: float = 0.0,
    ) -> Observation:
        score = Score(values=values, directions=("maximize", "maximize"), violation=violation)
        reached = {TrialState.FINISHED: (0, 1, 2), TrialState.STOPPED: (0,), TrialState.FAILED: (0, 1)}
        return Observation(
            trial=trial,
            hash=content_hash(architecture),
            architecture=canonical_json(architecture),
            state=state,
            score=score if state is TrialState.FINISHED else None,
            rung_scores=dict.fromkeys(reached.get(state, ()), score),
            sampler="random",
            control=control,
        )

    return observed


@pytest.fixture(scope="session")
def crowd(tiny: Space, observe: Observe) -> History:
    """40 trials in all states, of different architectures, with random scores."""
    rng = random.Random(11)
    states = [*TrialState, *[TrialState.FINISHED] * 6, *[TrialState.STOPPED] * 3]
    history = History()
    while len(history) < 40:
        architecture = sampling.sample(tiny, rng)
        if content_hash(architecture) not in history.hashes:
            number = len(history)
            values = (rng.random(), rng.uniform(10.0, 1000.0))
            history.record(observe(number, architecture, values, states[number % len(states)]))
    return history
