"""The first trials: informative for what they cost."""

import random
from itertools import islice

import numpy as np
import pytest

from hybridsearch.search.chain import chain_of, row_of
from hybridsearch.search.cost import cost_of
from hybridsearch.search.first_trials import NOISE, first_drafts, uncertainty
from hybridsearch.search.history import History, Observation
from hybridsearch.search_spaces import sampling
from hybridsearch.search_spaces.space import Space
from hybridsearch.spec.architecture import Architecture
from hybridsearch.spec.canonical import canonical_json, content_hash
from hybridsearch.trial import TrialState


def timed(trial: int, architecture: Architecture, seconds: float) -> Observation:
    """A trial that took so long to its first rung."""
    return Observation(
        trial=trial,
        hash=content_hash(architecture),
        architecture=canonical_json(architecture),
        state=TrialState.RUNNING,
        sampler="random",
        seconds=seconds,
    )


def test_uncertainty_is_the_posterior_variance_of_a_linear_model() -> None:
    numbers = np.random.default_rng(0)
    asked, known = numbers.standard_normal((5, 7)), numbers.standard_normal((4, 7))
    posterior = np.linalg.inv(np.eye(7) + known.T @ known / NOISE)
    assert uncertainty(asked, known) == pytest.approx(np.diag(asked @ posterior @ asked.T))
    assert uncertainty(asked, known[:0]) == pytest.approx((asked**2).sum(axis=1))


def test_the_first_drafts_say_more_than_random_ones(layers: Space) -> None:
    """Eight in a row, each told of those before: what is left unknown of the space after them."""

    def unknown(designed: bool) -> float:
        rng, history = random.Random(1), History()
        while len(history) < 8:
            architecture = (
                next(first_drafts(history, layers, rng)).architecture if designed else sampling.sample(layers, rng)
            )
            history.record(timed(len(history), architecture, 0.0))
        spreads = chain_of(layers).spreads
        known = np.array([row_of(layers, o.architecture) for o in history.observations]) * spreads
        rest = [row_of(layers, canonical_json(sampling.sample(layers, rng))) for _ in range(200)]
        return float(uncertainty(np.array(rest) * spreads, known).mean())

    assert unknown(True) < unknown(False)


def test_drafts_go_on_after_the_pool(layers: Space) -> None:
    drafts = list(islice(first_drafts(History(), layers, random.Random(0)), 60))
    assert len(drafts) == 60
    assert [canonical_json(d.architecture) for d in islice(first_drafts(History(), layers, random.Random(0)), 60)] == [
        canonical_json(d.architecture) for d in drafts
    ]


def test_costs_are_layers_until_seconds_are_known(layers: Space) -> None:
    rng = random.Random(4)
    stacks = [sampling.sample(layers, rng) for _ in range(40)]
    rows = np.array([row_of(layers, canonical_json(stack)) for stack in stacks])
    depths = np.array([float(len(stack.layers)) for stack in stacks])
    assert cost_of([], layers)(rows) == pytest.approx(depths)
    untimed = [timed(n, stack, 0.0) for n, stack in enumerate(stacks)]
    assert cost_of(untimed, layers)(rows) == pytest.approx(depths)
    # Layers of softmax take five times as long as others.
    attending = rows[:, chain_of(layers).names.index("count ATTENDING")]
    seconds = depths + 4 * attending
    known = [timed(n, stack, float(s)) for n, (stack, s) in enumerate(zip(stacks[:25], seconds, strict=False))]
    found = cost_of(known, layers)(rows)
    assert np.corrcoef(found[25:], seconds[25:])[0, 1] > 0.97
    assert found.min() > 0
