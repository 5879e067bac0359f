"""Ranks against the definition, taken literally."""

import math
import random

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from hybridsearch.errors import InvalidSetting
from hybridsearch.pareto.dominance import non_dominated, ranks

Row = tuple[float, ...]
# Few distinct values: ties and copies are where rank algorithms go wrong.
SETS = st.integers(1, 4).flatmap(
    lambda width: st.lists(st.tuples(*[st.integers(0, 4).map(float)] * width), min_size=1, max_size=14)
)


def dominates(a: Row, b: Row, violation_a: float = 0.0, violation_b: float = 0.0) -> bool:
    if violation_a != violation_b:
        return violation_a < violation_b
    return all(x <= y for x, y in zip(a, b, strict=True)) and a != b


def peeled(rows: list[Row], violation: list[float]) -> list[int]:
    result = [-1] * len(rows)
    left, front = set(range(len(rows))), 0
    while left:
        best = {i for i in left if not any(dominates(rows[j], rows[i], violation[j], violation[i]) for j in left)}
        for i in best:
            result[i] = front
        left, front = left - best, front + 1
    return result


@given(SETS, st.data())
def test_ranks_follow_from_the_definition(rows: list[Row], data: st.DataObject) -> None:
    violation = data.draw(st.lists(st.sampled_from([0.0, 0.0, 0.5, 2.0]), min_size=len(rows), max_size=len(rows)))
    assert ranks(rows).tolist() == peeled(rows, [0.0] * len(rows))
    assert ranks(rows, violation).tolist() == peeled(rows, violation)
    assert non_dominated(rows, violation).tolist() == [rank == 0 for rank in peeled(rows, violation)]


@given(SETS, st.randoms(use_true_random=False), st.integers(-3, 3), st.sampled_from([0.25, 8.0]))
def test_order_shift_and_scale_of_the_points_have_no_influence(
    rows: list[Row], rng: random.Random, shift: int, scale: float
) -> None:
    order = list(range(len(rows)))
    rng.shuffle(order)
    moved = np.array([rows[i] for i in order]) * scale + shift
    assert ranks(moved).tolist() == [int(rank) for rank in ranks(rows)[order]]


@given(SETS, st.data())
def test_stopping_early_keeps_the_leading_ranks(rows: list[Row], data: st.DataObject) -> None:
    violation = data.draw(st.lists(st.sampled_from([0.0, 0.0, 1.0]), min_size=len(rows), max_size=len(rows)))
    enough = data.draw(st.integers(1, len(rows)))
    full, early = ranks(rows, violation), ranks(rows, violation, enough=enough)
    last = np.sort(full)[enough - 1]
    assert (early[full <= last] == full[full <= last]).all()
    assert (early[full > last] > last).all()


@pytest.mark.parametrize("width", [1, 2, 3])
@pytest.mark.parametrize("enough", [1, 5, 30])
def test_of_many_points_the_few_leading_ones_have_their_true_ranks(width: int, enough: int) -> None:
    rows = np.random.default_rng(width).integers(0, 40, (300, width)) / 8.0
    rows[7] = -np.inf
    full, early = ranks(rows), ranks(rows, enough=enough)
    last = np.sort(full)[enough - 1]
    assert (early[full <= last] == full[full <= last]).all()
    assert (early[full > last] > last).all()


def test_a_feasible_point_beats_any_infeasible_one_however_good() -> None:
    assert ranks([[9.0, 9.0], [0.0, 0.0], [1.0, 1.0]], [0.0, 2.0, 0.1]).tolist() == [0, 2, 1]


def test_infinities_are_ranked_and_nothing_is_nothing() -> None:
    assert ranks([[np.inf, 1.0], [0.0, 1.0], [0.0, -np.inf]]).tolist() == [2, 1, 0]
    assert ranks([]).tolist() == []
    assert non_dominated(np.zeros((0, 3))).tolist() == []


def test_nan_is_refused_by_its_row() -> None:
    with pytest.raises(InvalidSetting, match=r"point 1 is \[nan, 2.0\]"):
        ranks([[1.0, 2.0], [np.nan, 2.0]])


@pytest.mark.parametrize("violation", [[0.0], [0.0, np.nan], [0.0, -1.0]])
def test_violations_that_make_no_sense_are_refused(violation: list[float]) -> None:
    with pytest.raises(InvalidSetting, match="violation"):
        non_dominated([[1.0, 2.0], [2.0, 1.0]], violation)


def test_a_flat_list_is_refused() -> None:
    with pytest.raises(InvalidSetting, match="one row a point"):
        ranks([1.0, 2.0])


def clearly(a: tuple[float, ...], b: tuple[float, ...], wide_a: tuple[float, ...], wide_b: tuple[float, ...]) -> bool:
    need = [math.hypot(x, y) for x, y in zip(wide_a, wide_b, strict=True)]
    gaps = [y - x for x, y in zip(a, b, strict=True)]
    return all(gap >= least for gap, least in zip(gaps, need, strict=True)) and any(gap > 0 for gap in gaps)


def test_a_difference_inside_the_margins_dominates_nobody() -> None:
    values = [(0.50, 1.0), (0.52, 2.0), (0.90, 2.0)]
    assert ranks(values).tolist() == [0, 1, 2]
    assert ranks(values, margins=[(0.03, 0.0)] * 3).tolist() == [0, 0, 1]
    assert ranks(values, margins=[(0.03, 0.0), (0.0, 0.0), (0.0, 0.0)]).tolist() == [0, 0, 1]
    assert ranks(values, margins=np.zeros((3, 2))).tolist() == [0, 1, 2]


uncertain = st.lists(
    st.tuples(*[st.integers(0, 8).map(float)] * 2, *[st.sampled_from([0.0, 0.5, 1.0, 3.0])] * 2), min_size=1, max_size=9
)


@given(uncertain)
def test_clear_dominance_is_a_strict_order_and_ranks_are_its_longest_chains(
    drawn: list[tuple[float, float, float, float]],
) -> None:
    values, wide = [row[:2] for row in drawn], [row[2:] for row in drawn]
    above = [
        {i for i in range(len(drawn)) if clearly(values[i], values[j], wide[i], wide[j])} for j in range(len(drawn))
    ]
    for j, better in enumerate(above):
        assert j not in better
        assert all(above[i] <= better for i in better)  # transitive

    def depth(j: int) -> int:
        return 1 + max(map(depth, above[j]), default=-1)

    assert ranks(values, margins=wide).tolist() == [depth(j) for j in range(len(drawn))]


@given(uncertain)
def test_the_leading_clear_ranks_are_those_of_all(drawn: list[tuple[float, float, float, float]]) -> None:
    values, wide = [row[:2] for row in drawn], [row[2:] for row in drawn]
    whole, part = ranks(values, margins=wide), ranks(values, margins=wide, enough=2)
    assert (part == whole)[whole <= part.max() - 1].all()


def test_margins_must_fit_and_be_distances() -> None:
    with pytest.raises(InvalidSetting, match="one for each of"):
        ranks([[1.0, 2.0]], margins=[[1.0]])
    with pytest.raises(InvalidSetting, match="margin -1"):
        ranks([[1.0, 2.0]], margins=[[-1.0, 0.0]])
