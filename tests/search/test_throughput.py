"""The additive model: its fit against all active sets, exact where seconds add up, honest where they do not."""

import itertools
import random

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from hybridsearch.search.throughput import ENOUGH, Throughput, learn, non_negative_least_squares, terms_of
from hybridsearch.search_spaces import catalog, sampling
from hybridsearch.spec.architecture import Architecture

COSTS = {"full": 9e-6, "sliding": 3e-6, "gated_delta": 2e-6, "delta": 2.5e-6, "gated_linear": 1e-6}


def drawn(count: int, seed: int = 0, space: str = "tiny") -> list[Architecture]:
    rng = random.Random(seed)
    loaded = catalog.load(space)
    return [sampling.sample(loaded, rng) for _ in range(count)]


def seconds(architecture: Architecture) -> float:
    mixers = sum(COSTS.get(layer.mixer.kind, 5e-6) for layer in architecture.layers)
    forward = 1e-11 * architecture.width * sum(layer.feed_forward for layer in architecture.layers)
    return 4e-6 + mixers + forward


@given(st.lists(st.tuples(*[st.integers(-4, 4).map(float)] * 4), min_size=3, max_size=8))
def test_the_fit_is_the_best_of_all_active_sets(drawn_rows: list[tuple[float, float, float, float]]) -> None:
    table = np.array([row[:3] for row in drawn_rows])
    targets = np.array([row[3] for row in drawn_rows])

    def loss(x: np.ndarray[tuple[int, ...], np.dtype[np.float64]]) -> float:
        return float(((table @ x - targets) ** 2).sum())

    least = loss(np.zeros(3))
    for size in (1, 2, 3):
        for active in itertools.combinations(range(3), size):
            x = np.zeros(3)
            x[list(active)] = np.linalg.lstsq(table[:, list(active)], targets, rcond=None)[0]
            if (x >= 0).all():
                least = min(least, loss(x))
    found = non_negative_least_squares(table, targets)
    assert (found >= 0).all()
    assert loss(found) <= least + 1e-4 * (1 + least)


@pytest.mark.parametrize("space", ["tiny", "layers"])
def test_where_seconds_add_up_unseen_architectures_are_told_exactly(space: str) -> None:
    architectures = drawn(300, space=space)
    model = learn(architectures, [1 / seconds(a) for a in architectures])
    assert model is not None
    told = [(a, model.tokens_per_second(a)) for a in drawn(40, seed=9, space=space)]
    known = [(a, tps) for a, tps in told if tps is not None]
    assert len(known) > 20
    assert all(tps == pytest.approx(1 / seconds(a), rel=0.03) for a, tps in known)
    assert model.error.most < 0.03


def test_the_error_is_that_of_architectures_the_fit_has_not_seen() -> None:
    rng = random.Random(1)
    architectures = drawn(200)
    measured = [rng.choice((0.5, 1.0, 2.0)) / seconds(a) for a in architectures]
    model = learn(architectures, measured)
    assert model is not None
    fresh = drawn(200, seed=2)
    truth = [rng.choice((0.5, 1.0, 2.0)) / seconds(a) for a in fresh]
    told = [model.tokens_per_second(a) for a in fresh]
    errors = [abs(t / m - 1) for t, m in zip(told, truth, strict=True) if t is not None]
    assert model.error.median == pytest.approx(float(np.median(errors)), rel=0.5)
    assert model.error.most > 0.3


def test_too_few_architectures_make_no_model() -> None:
    architectures = drawn(ENOUGH - 1)
    assert learn(architectures, [1 / seconds(a) for a in architectures]) is None


def test_a_mixer_that_was_never_measured_has_no_prediction() -> None:
    architectures = drawn(60)
    model = learn(architectures, [1 / seconds(a) for a in architectures])
    (other,) = drawn(1, space="layers")
    assert isinstance(model, Throughput)
    assert model.tokens_per_second(other) is None


def test_terms_count_layers_and_feed_forward() -> None:
    (architecture,) = drawn(1, space="layers")
    terms = terms_of(architecture)
    assert sum(amount for (_, width), amount in terms.items() if width) == len(architecture.layers)
    assert terms["feed-forward", 0] == sum(architecture.width * layer.feed_forward for layer in architecture.layers)
