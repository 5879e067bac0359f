import math
from itertools import combinations, pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hybridsearch.search_spaces import placement


@pytest.mark.parametrize(
    ("ratio", "place", "depth", "expected"),
    [
        ("3:1", "uniform", 12, (3, 7, 11)),
        ("3:1", "uniform", 6, (3,)),
        ("3:1", "uniform", 3, (2,)),
        ("24:1", "uniform", 24, (23,)),
        ("1:1", "uniform", 4, (1, 3)),
        ("1:3", "uniform", 8, (1, 2, 3, 5, 6, 7)),
        ("1:1", "first", 4, (0, 1)),
        ("1:1", "last", 4, (2, 3)),
        ("1:1", "middle", 4, (1, 2)),
        ("3:1", "middle", 12, (4, 5, 6)),
        ("1:1", "ends", 4, (0, 3)),
        ("3:1", "ends", 12, (0, 10, 11)),
        ("1:0", "ends", 3, ()),
        ("0:1", "middle", 3, (0, 1, 2)),
    ],
)
def test_placements(ratio: str, place: str, depth: int, expected: tuple[int, ...]) -> None:
    assert placement.positions(ratio, place, depth) == expected


@given(st.integers(1, 9), st.integers(1, 9), st.sampled_from(placement.PLACEMENTS[:-1]), st.integers(1, 24))
def test_a_placement_has_the_count_of_its_ratio(linear: int, full: int, place: str, depth: int) -> None:
    ratio = f"{linear}:{full}"
    chosen = placement.positions(ratio, place, depth)
    assert list(chosen) == sorted(set(chosen)) and set(chosen) <= set(range(depth))
    assert len(chosen) == placement.full_count(ratio, depth) >= 1
    if depth > 1:
        assert len(chosen) < depth


@given(st.integers(1, 9), st.integers(1, 9), st.integers(1, 24))
def test_uniform_layers_are_as_far_apart_as_they_can_be(linear: int, full: int, depth: int) -> None:
    chosen = placement.positions(f"{linear}:{full}", "uniform", depth)
    gaps = [b - a for a, b in pairwise(chosen)]
    assert not gaps or max(gaps) - min(gaps) <= 1
    if depth > 1:
        assert chosen[0] > 0


@pytest.mark.parametrize("depth", range(1, 8))
def test_rank_numbers_the_subsets(depth: int) -> None:
    for count in range(depth + 1):
        expected = list(combinations(range(depth), count))
        assert list(placement.subsets(depth, count)) == expected
        assert [placement.unrank(index, depth, count) for index in range(math.comb(depth, count))] == expected
        assert [placement.rank(chosen, depth) for chosen in expected] == list(range(len(expected)))
