"""What `auto` means."""

import pytest

from hybridsearch.search.choice import choose
from hybridsearch.search.samplers import SAMPLERS
from hybridsearch.search_spaces import catalog
from hybridsearch.search_spaces.space import Space

NINE = {"width": 16, "depth": 2, "mixers": {"full": {"head_dim": 8}, "gated_delta": {"heads": 2, "head_dim": 4},
        "sliding": {"head_dim": 8, "window": 8}}, "feed_forward": {"ratio": 2}}  # fmt: skip


def test_a_named_sampler_is_taken_as_it_is(layers: Space) -> None:
    assert {choose(name, layers, 5)[0] for name in SAMPLERS} == set(SAMPLERS)


@pytest.mark.parametrize(("trials", "sampler"), [(9, "random"), (8, "prior"), (100, "random"), (None, "cluster")])
def test_a_handful_that_the_budget_covers_needs_no_order(trials: int | None, sampler: str) -> None:
    assert choose("auto", catalog.load(NINE), trials)[0] == sampler


@pytest.mark.parametrize(("trials", "sampler"), [(5, "prior"), (30, "cluster"), (5000, "cluster"), (None, "cluster")])
def test_a_large_space_is_modelled_once_there_are_trials_enough(
    layers: Space, trials: int | None, sampler: str
) -> None:
    found, why = choose("auto", layers, trials)
    assert found == sampler
    assert found in SAMPLERS
    assert (str(trials) if trials else "time") in why


def test_a_larger_space_that_the_budget_covers_is_still_searched_best_first() -> None:
    twenty_seven = catalog.load({**NINE, "depth": 3})
    assert choose("auto", twenty_seven, 100)[0] == "cluster"
