"""Histories of a real space whose best architectures are known: the more gated-delta layers, the better the recall."""

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

Finished = Callable[..., Observation]


@pytest.fixture(scope="session")
def layers() -> Space:
    return catalog.load("layers")


def share(architecture: Architecture) -> float:
    """Part of the layers that are gated delta."""
    return sum(layer.mixer.kind == "gated_delta" for layer in architecture.layers) / len(architecture.layers)


@pytest.fixture(scope="session")
def gated_share() -> Callable[[Architecture], float]:
    return share


@pytest.fixture(scope="session")
def finished() -> Finished:
    """A finished trial; its recall is the share of gated-delta layers unless one is given."""

    def observed(
        trial: int, architecture: Architecture, recall: float | None = None, violation: float = 0.0
    ) -> Observation:
        values = (share(architecture) if recall is None else recall, 100.0)
        score = Score(values=values, directions=("maximize", "maximize"), violation=violation)
        return Observation(
            trial=trial,
            hash=content_hash(architecture),
            architecture=canonical_json(architecture),
            state=TrialState.FINISHED,
            score=score,
            rung_scores={0: score},
            sampler="random",
        )

    return observed


@pytest.fixture(scope="session")
def random_history(layers: Space, finished: Finished) -> Callable[[int], History]:
    """So many random architectures, all finished."""

    def drawn(count: int) -> History:
        rng = random.Random(3)
        history = History()
        while len(history) < count:
            architecture = sampling.sample(layers, rng)
            if content_hash(architecture) not in history.hashes:
                history.record(finished(len(history), architecture))
        return history

    return drawn
