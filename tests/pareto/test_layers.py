"""Fronts that grow point by point: always those of ranking all points together."""

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hybridsearch.errors import InvalidSetting
from hybridsearch.pareto.dominance import ranks
from hybridsearch.pareto.layers import Layers, Place

NUMBER = st.sampled_from([-float("inf"), 0.0, 1.0, 2.0, 2.5, 3.0, 5.0, float("inf")])
VIOLATION = st.sampled_from([0.0, 0.0, 0.0, 0.5, 1.0])


def ranked(places: list[Place]) -> list[set[int]]:
    """By the definition of `ranks`."""
    margins = [place.margins for place in places] if places[0].margins else None
    found = ranks([place.values for place in places], [place.violation for place in places], margins=margins)
    return [
        {place.number for place, rank in zip(places, found.tolist(), strict=True) if rank == front}
        for front in range(int(found.max()) + 1)
    ]


def check(places: list[Place]) -> None:
    growing = Layers()
    for count, place in enumerate(places, start=1):
        before = [set(front) for front in growing]
        grown = growing.with_point(place)
        assert [set(front) for front in growing] == before  # the fronts it was made from are still what they were
        growing, whole = grown, ranked(places[:count])
        assert [set(front) for front in growing] == whole
        assert len(growing) == len(whole)
    at_once = Layers.of(places)
    assert [set(front) for front in at_once] == [set(front) for front in growing]
    for layers in (growing, at_once):
        for place in places:
            found = layers.standing(place)
            (front,) = [index for index, numbers in enumerate(whole) if place.number in numbers]
            assert (found.front, found.ahead) == (front, sum(map(len, whole[:front])))
            assert sorted(found.beside) == sorted(whole[front])


@given(st.integers(1, 4).flatmap(lambda width: st.lists(st.tuples(*[NUMBER] * width), min_size=1, max_size=30)))
def test_certain_points_in_any_number_of_objectives(rows: list[tuple[float, ...]]) -> None:
    check([Place(number, row) for number, row in enumerate(rows)])


@given(st.lists(st.tuples(NUMBER, NUMBER, VIOLATION), min_size=1, max_size=40))
def test_points_that_break_constraints(rows: list[tuple[float, float, float]]) -> None:
    check([Place(number, row[:2], row[2]) for number, row in enumerate(rows)])


FINITE = st.floats(0, 4, width=16)


@given(st.lists(st.tuples(FINITE, FINITE, st.floats(0, 1), st.floats(0, 1), VIOLATION), min_size=1, max_size=30))
def test_points_with_margins(rows: list[tuple[float, ...]]) -> None:
    check([Place(number, row[:2], row[4], row[2:4]) for number, row in enumerate(rows)])


@pytest.mark.parametrize("uncertain", [False, True])
def test_many_points_join_those_that_were_ranked_together(uncertain: bool) -> None:
    rng = random.Random(0)
    places = [
        Place(n, (rng.random(), rng.random()), margins=(rng.random() / 50, 0.0) if uncertain else ())
        for n in range(300)
    ]
    layers = Layers.of(places[:200])
    for place in places[200:]:
        layers = layers.with_point(place)
    assert [set(front) for front in layers] == ranked(places)


def test_no_points_have_no_fronts() -> None:
    assert len(Layers()) == 0
    assert list(Layers.of([])) == []


def test_nan_is_refused() -> None:
    with pytest.raises(InvalidSetting, match="NaN has no rank"):
        Layers().with_point(Place(0, (float("nan"), 1.0)))
    with pytest.raises(InvalidSetting, match="is no distance"):
        Layers().with_point(Place(0, (0.0, 1.0), violation=-1.0))
