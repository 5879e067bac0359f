"""The prior by its rules, and PriorBand's shares."""

import random
from collections.abc import Callable

import pytest

from hybridsearch.objectives import OBJECTIVES
from hybridsearch.search.history import History, Observation
from hybridsearch.search.prior import expected_positions, prior, prior_draft, shares
from hybridsearch.search.proposals import Request
from hybridsearch.search_spaces import catalog
from hybridsearch.search_spaces.space import Space
from hybridsearch.spec import cost

AXES = (OBJECTIVES["recall"], OBJECTIVES["decode_tokens_per_second"])


@pytest.mark.parametrize(
    ("depth", "full"),
    [(1, (0,)), (2, (1,)), (3, (1, 2)), (4, (2, 3)), (8, (3, 7)), (12, (3, 7, 11))],
)
def test_full_layers_are_evenly_spaced_at_least_two_and_never_first(depth: int, full: tuple[int, ...]) -> None:
    assert expected_positions(depth) == full


def test_draws_lie_in_the_space_and_look_like_the_prior(layers: Space) -> None:
    rng = random.Random(0)
    drawn = [prior_draft(layers, rng).architecture for _ in range(60)]
    assert not [text for architecture in drawn for text in layers.violations(architecture)]
    fulls = [cost.full_layers(a) / len(a.layers) for a in drawn]
    assert 0.2 < sum(fulls) / len(fulls) < 0.5
    first = [a.layers[0].mixer.kind == "full" for a in drawn]
    assert sum(first) < 0.25 * len(first)
    assert len({len(a.layers) for a in drawn}) > 3


def test_a_space_of_attending_layers_alone_has_no_prior_but_draws() -> None:
    mixers = {"full": {"head_dim": 8}, "sliding": {"head_dim": 8, "window": [8, 16]}}
    space = catalog.load({"width": 32, "depth": [2, 3], "mixers": mixers, "layers": {"free": ["sliding"]}})
    assert space.violations(prior_draft(space, random.Random(0)).architecture) == []


def test_chance_gives_way_rung_by_rung_and_the_better_explanation_gains() -> None:
    assert shares(0, 1.0, 0.0) == (0.5, 0.5, 0.0)
    assert shares(1, 1.0, 1.0) == pytest.approx((0.25, 0.375, 0.375))
    assert shares(2, 1.0, 3.0) == pytest.approx((0.1, 0.225, 0.675))
    assert shares(2, 0.0, 0.0) == pytest.approx((0.1, 0.9, 0.0))


def test_once_something_is_good_draws_come_from_around_it(
    layers: Space, finished: Callable[..., Observation], random_history: Callable[[int], History]
) -> None:
    history = random_history(60)
    request = Request(space=layers, objectives=AXES, seed=0, number=60, count=30)
    proposals = prior(history, request)
    leaders = {o.trial for o in history.cohort(6).leaders(20)}  # type: ignore[union-attr]
    parents = {parent for proposal in proposals for parent in proposal.parents}
    assert parents
    assert parents <= leaders
