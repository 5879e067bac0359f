"""A restricted space: whatever draws or changes architectures keeps to its members."""

from collections import Counter
from random import Random

import pytest

from hybridsearch.errors import Infeasible
from hybridsearch.search_spaces import catalog, crossover, encoding, mutation, sampling
from hybridsearch.search_spaces.restriction import restricted
from hybridsearch.search_spaces.space import Space
from hybridsearch.spec.architecture import Architecture


@pytest.fixture(scope="module")
def some() -> list[Architecture]:
    listing = catalog.load("tiny").listing
    assert listing is not None
    return Random(0).sample(listing, 40)


@pytest.fixture(scope="module")
def space(some: list[Architecture]) -> Space:
    return restricted(catalog.load("tiny"), some)


def test_it_lists_its_members_alone(space: Space, some: list[Architecture]) -> None:
    whole = catalog.load("tiny")
    assert space.listing == tuple(some)
    assert space.size() == 40
    assert whole.members is None
    assert whole.size() > 4000
    outside = next(a for a in whole.listing or () if a not in set(some))
    assert "known" in space.violations(outside)[0]
    assert not space.violations(some[0])


def test_what_is_drawn_changed_crossed_or_decoded_is_a_member(space: Space, some: list[Architecture]) -> None:
    rng, whole = Random(1), catalog.load("tiny")
    for _ in range(60):
        a, b = rng.choice(some), rng.choice(some)
        point = encoding.encode(whole, rng.choice(whole.listing or ()))
        assert point is not None
        found = (
            sampling.sample(space, rng),
            mutation.mutate(space, a, rng),
            crossover.cross(space, a, b, rng),
            encoding.decode(space, point),
        )
        assert set(found) <= set(some)
        assert found[1] != a


def test_every_member_is_drawn_alike(space: Space, some: list[Architecture]) -> None:
    rng = Random(2)
    counts = Counter(sampling.sample(space, rng) for _ in range(4000))
    assert set(counts) == set(some)
    assert max(counts.values()) < 160


def test_members_outside_the_space_are_left_out_and_none_is_no_space(some: list[Architecture]) -> None:
    others = catalog.load("layers")
    empty = restricted(others, some)
    assert empty.listing == ()
    with pytest.raises(Infeasible):
        sampling.sample(empty, Random(0))
