"""Hypervolume against inclusion-exclusion over the points' boxes, which shares no code with it."""

import random
from itertools import combinations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from hybridsearch.errors import InvalidSetting
from hybridsearch.pareto.hypervolume import exclusive, hypervolume

Row = tuple[float, ...]
SMALL = st.integers(0, 6).map(float)
FINE = st.floats(0.0, 6.0, allow_subnormal=False)


def clouds(value: st.SearchStrategy[float], widths: tuple[int, ...] = (1, 2, 3, 4, 5)) -> st.SearchStrategy[list[Row]]:
    return st.sampled_from(widths).flatmap(lambda width: st.lists(st.tuples(*[value] * width), min_size=1, max_size=6))


def included_excluded(rows: list[Row], reference: Row) -> float:
    total = 0.0
    for size in range(1, len(rows) + 1):
        for chosen in combinations(rows, size):
            corner = np.max(np.array(chosen), axis=0)
            total += (-1) ** (size + 1) * float(np.prod(np.maximum(np.array(reference) - corner, 0.0)))
    return total


@given(clouds(SMALL) | clouds(FINE))
def test_it_equals_inclusion_exclusion(rows: list[Row]) -> None:
    reference = tuple(5.0 for _ in rows[0])  # some points lie beyond it
    assert hypervolume(rows, reference) == pytest.approx(included_excluded(rows, reference), rel=1e-9, abs=1e-9)


@given(clouds(SMALL), st.randoms(use_true_random=False))
def test_order_and_copies_have_no_influence(rows: list[Row], rng: random.Random) -> None:
    reference = [5.0] * len(rows[0])
    again = rows + rows[:2]
    rng.shuffle(again)
    assert hypervolume(again, reference) == pytest.approx(hypervolume(rows, reference), rel=1e-12)


@given(clouds(FINE), st.data())
def test_scaling_an_objective_scales_the_volume(rows: list[Row], data: st.DataObject) -> None:
    width = len(rows[0])
    factors = np.array(data.draw(st.lists(st.sampled_from([0.5, 1.0, 1000.0]), min_size=width, max_size=width)))
    reference = np.full(width, 5.0)
    scaled = hypervolume(np.array(rows) * factors, list(reference * factors))
    assert scaled == pytest.approx(hypervolume(rows, list(reference)) * np.prod(factors), rel=1e-9, abs=1e-12)


@given(clouds(SMALL), st.data())
def test_exchanging_objectives_has_no_influence(rows: list[Row], data: st.DataObject) -> None:
    columns = data.draw(st.permutations(range(len(rows[0]))))
    reference = [5.0 + i for i in range(len(rows[0]))]
    turned = hypervolume(np.array(rows)[:, columns], [reference[i] for i in columns])
    assert turned == pytest.approx(hypervolume(rows, reference), rel=1e-12)


@given(clouds(SMALL))
def test_the_exclusive_part_is_what_joining_adds(rows: list[Row]) -> None:
    reference = [5.0] * len(rows[0])
    grown = hypervolume(rows, reference) - hypervolume(rows[1:], reference)
    assert exclusive(rows[0], rows[1:], reference) == pytest.approx(grown, abs=1e-9)


def test_three_overlapping_boxes_by_hand() -> None:
    assert hypervolume([[0, 1, 1], [1, 0, 1], [1, 1, 0]], [2, 2, 2]) == pytest.approx(4.0)


def test_points_on_or_beyond_the_reference_add_nothing() -> None:
    assert hypervolume([[1.0, 5.0], [6.0, 0.0]], [5.0, 5.0]) == 0.0
    assert hypervolume([], [5.0, 5.0]) == 0.0
    assert exclusive([5.0, 0.0], [[1.0, 1.0]], [5.0, 5.0]) == 0.0


@pytest.mark.parametrize("rows", [[[np.nan, 1.0]], [[-np.inf, 1.0]], [[1.0, 2.0, 3.0]]])
def test_what_cannot_be_measured_is_refused(rows: list[list[float]]) -> None:
    with pytest.raises(InvalidSetting):
        hypervolume(rows, [5.0, 5.0])
