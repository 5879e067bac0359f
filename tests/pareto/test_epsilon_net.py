"""Farthest-first order: by hand, against its covering property, and for odd values."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from hybridsearch.errors import InvalidSetting
from hybridsearch.pareto.epsilon_net import net_order


def test_the_ends_come_first_then_the_middle_of_the_widest_gap() -> None:
    assert net_order(np.array([[0, 10], [1, 9], [2, 8], [5, 5], [10, 0]])).tolist() == [0, 4, 3, 2, 1]


def test_copies_come_last_and_by_row() -> None:
    assert net_order([[0, 1], [1, 0], [0, 1], [1, 0]]).tolist() == [0, 1, 2, 3]


def test_units_do_not_matter_and_infinite_values_count_as_the_worst() -> None:
    values = np.array([[0.0, 10], [1, 9], [2, 8], [5, 5], [10, 0]])
    assert net_order(values * [1e9, 1e-9] + [3, 4]).tolist() == net_order(values).tolist()
    capped = np.array([[1.0, 0], [1, 2], [0, 4]])
    infinite = np.array([[math.inf, 0.0], [1, 2], [0, 4]])
    assert net_order(infinite).tolist() == net_order(capped).tolist()


def test_nothing_and_nan() -> None:
    assert net_order(np.zeros((0, 2))).tolist() == []
    with pytest.raises(InvalidSetting, match="NaN"):
        net_order([[math.nan, 1.0]])


@given(st.lists(st.tuples(*[st.floats(0, 1)] * 2), min_size=2, max_size=12))
def test_any_beginning_covers_the_rest_at_least_as_closely_as_it_is_spread(points: list[tuple[float, float]]) -> None:
    array = np.array(points)
    span = np.ptp(array, axis=0)
    scaled = (array - array.min(axis=0)) / np.where(span > 0, span, 1.0)
    order = net_order(points)
    assert sorted(order.tolist()) == list(range(len(points)))
    apart = np.linalg.norm(scaled[:, None] - scaled[None], axis=2)
    for k in range(2, len(points)):
        inside, rest = order[:k], order[k:]
        spread = min(apart[i, j] for i in inside for j in inside if i != j)
        assert apart[np.ix_(rest, inside)].min(axis=1).max() <= spread + 1e-9
