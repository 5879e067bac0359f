"""The growing front against the same points seen at once."""

import random

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from hybridsearch.errors import InvalidSetting
from hybridsearch.pareto.dominance import non_dominated
from hybridsearch.pareto.front import Front
from hybridsearch.pareto.hypervolume import hypervolume

Row = tuple[float, ...]
CLOUDS = st.sampled_from([2, 3, 4]).flatmap(
    lambda width: st.lists(st.tuples(*[st.integers(0, 7).map(float)] * width), min_size=1, max_size=25)
)


@given(CLOUDS)
def test_after_every_addition_it_equals_the_whole(rows: list[Row]) -> None:
    reference = [6.0] * len(rows[0])
    front: Front[int] = Front(reference)
    for count, row in enumerate(rows, start=1):
        on_front = front.add(row, count - 1)
        best = np.flatnonzero(non_dominated(rows[:count])).tolist()
        assert front.keys == set(best)
        assert on_front == (count - 1 in best)
        assert front.hypervolume == pytest.approx(hypervolume(rows[:count], reference), rel=1e-9, abs=1e-9)


@pytest.mark.parametrize("width", [2, 3])
def test_ten_thousand_points_do_not_drift(width: int) -> None:
    rng = random.Random(width)
    scales = [1.0, 1e5, 1e9][:width]
    rows = [[rng.random() ** 2 * scale for scale in scales] for _ in range(10_000 if width == 2 else 1_000)]
    front: Front[int] = Front(scales)
    for number, row in enumerate(rows):
        front.add(row, number)
    assert front.keys == set(np.flatnonzero(non_dominated(rows)).tolist())
    assert front.hypervolume == pytest.approx(hypervolume(rows, scales), rel=1e-12)


def test_members_rise_and_equal_points_keep_their_order() -> None:
    front: Front[str] = Front([9.0, 9.0])
    for key, point in [("late", (5.0, 1.0)), ("twin", (1.0, 5.0)), ("other twin", (1.0, 5.0)), ("worse", (6.0, 6.0))]:
        front.add(point, key)
    assert front.members == [("twin", (1.0, 5.0)), ("other twin", (1.0, 5.0)), ("late", (5.0, 1.0))]
    front.add((0.0, 0.0), "best")
    assert front.members == [("best", (0.0, 0.0))]
    assert front.hypervolume == 81.0


def test_a_point_beyond_the_reference_is_on_the_front_but_adds_nothing() -> None:
    front: Front[int] = Front([1.0, 1.0])
    assert front.add((-1.0, 2.0), 0)
    assert front.hypervolume == 0.0


@pytest.mark.parametrize("point", [(np.nan, 1.0), (1.0, np.inf), (1.0,), (1.0, 2.0, 3.0)])
def test_points_that_cannot_stand_on_a_front_are_refused(point: Row) -> None:
    front: Front[int] = Front([1.0, 1.0])
    with pytest.raises(InvalidSetting):
        front.add(point, 0)
    assert front.members == []
