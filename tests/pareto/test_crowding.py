"""Crowding: ends first, wide gaps before narrow ones, and no influence of the order of the rows."""

import random

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from hybridsearch.errors import InvalidSetting
from hybridsearch.pareto.crowding import distances, ranking
from hybridsearch.pareto.dominance import ranks

Row = tuple[float, ...]
CLOUDS = st.integers(1, 3).flatmap(
    lambda width: st.lists(st.tuples(*[st.integers(0, 5).map(float)] * width), min_size=1, max_size=12)
)


def test_distances_by_hand() -> None:
    front = [[0.0, 8.0], [1.0, 4.0], [2.0, 2.0], [8.0, 0.0]]
    assert distances(front).tolist() == [np.inf, 2 / 8 + 6 / 8, 7 / 8 + 4 / 8, np.inf]


@given(CLOUDS, st.randoms(use_true_random=False), st.sampled_from([0.5, 4.0]))
def test_order_and_scale_have_no_influence(rows: list[Row], rng: random.Random, scale: float) -> None:
    order = list(range(len(rows)))
    rng.shuffle(order)
    np.testing.assert_allclose(distances([rows[i] for i in order]), distances(rows)[order])
    np.testing.assert_allclose(distances(np.array(rows) * scale), distances(rows))


@given(CLOUDS, st.data())
def test_the_ranking_sorts_by_front_then_room_then_row(rows: list[Row], data: st.DataObject) -> None:
    violation = data.draw(st.lists(st.sampled_from([0.0, 0.0, 1.0]), min_size=len(rows), max_size=len(rows)))
    result = ranking(rows, violation)
    assert result.ranks.tolist() == ranks(rows, violation).tolist()
    keys = [(int(result.ranks[i]), -float(result.distances[i]), int(i)) for i in result.order]
    assert keys == sorted(keys)
    assert sorted(result.order.tolist()) == list(range(len(rows)))


@given(CLOUDS, st.data())
def test_asking_for_the_leaders_only_gives_the_same_leaders(rows: list[Row], data: st.DataObject) -> None:
    enough = data.draw(st.integers(1, len(rows)))
    assert ranking(rows, enough=enough).order[:enough].tolist() == ranking(rows).order[:enough].tolist()


def test_the_ends_of_each_front_lead_it() -> None:
    rows = [[2.0, 2.0], [0.0, 4.0], [1.9, 2.1], [4.0, 0.0], [5.0, 5.0]]
    assert set(ranking(rows).order[:2].tolist()) == {1, 3}
    assert ranking(rows).order[-1] == 4


def test_nothing_has_no_order_and_nan_has_no_room() -> None:
    assert ranking([]).order.tolist() == []
    with pytest.raises(InvalidSetting):
        distances([[0.0, np.nan]])
