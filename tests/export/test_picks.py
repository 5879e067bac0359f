from collections.abc import Callable, Sequence
from dataclasses import replace

import pytest

from hybridsearch.errors import InvalidSetting
from hybridsearch.export.picks import knee, pick
from hybridsearch.objectives import OBJECTIVES, Objective
from hybridsearch.reporting.points import Point, Spread

Make = Callable[..., Point]


@pytest.fixture
def front(make_point: Make) -> list[Point]:
    """Extremes 0 and 3; 1 lies farthest above the line between them; 4 is dominated."""
    places = [(1.0, 1000.0), (0.95, 6000.0), (0.7, 8000.0), (0.2, 9000.0)]
    return [make_point(n, *place) for n, place in enumerate(places)] + [
        make_point(4, 0.1, 100.0, on_front=False, control="full")
    ]


@pytest.mark.parametrize(
    ("choice", "trial"),
    [("knee", 1), ("recall", 0), ("throughput", 3), ("decode_tokens_per_second", 3), ("full", 4), ("#2", 2)],
)
def test_choices(front: list[Point], objectives: Sequence[Objective], choice: str, trial: int) -> None:
    assert pick(front, choice, objectives).trial == trial


def test_a_hash_prefix_finds_any_finished_trial(front: list[Point], objectives: Sequence[Objective]) -> None:
    assert pick(front, front[4].hash[:6], objectives).trial == 4


def test_the_knee_is_the_largest_distance_from_the_line(front: list[Point], objectives: Sequence[Objective]) -> None:
    """Against the textbook formula for the distance of a point from a line, on normalised axes."""

    def distance(point: Point) -> float:
        x = (point.metrics["recall"].value - 0.2) / 0.8
        y = (point.metrics["decode_tokens_per_second"].value - 1000) / 8000
        return float((x + y - 1) / 2**0.5)

    assert knee(front[:4], objectives) is max(front[:4], key=distance)


def test_the_knee_does_not_depend_on_units_or_order(make_point: Make, objectives: Sequence[Objective]) -> None:
    places = [(1.0, 1.0), (0.95, 6.0), (0.7, 8.0), (0.2, 9.0)]
    scaled = [make_point(n, recall, 1e6 * speed) for n, (recall, speed) in enumerate(places)]
    assert knee(scaled, objectives).trial == knee(scaled[::-1], objectives).trial == 1


def test_ties_go_to_the_better_first_objective_then_to_the_earlier_trial(
    make_point: Make, objectives: Sequence[Objective]
) -> None:
    line = [make_point(0, 0.0, 30.0), make_point(1, 0.1, 20.0), make_point(2, 0.2, 10.0), make_point(3, 0.3, 0.0)]
    assert knee(line, objectives).trial == 3
    assert knee([make_point(5, 1.0, 1.0), make_point(4, 1.0, 1.0)], objectives).trial == 4


def test_minimised_objectives_are_turned_round(make_point: Make) -> None:
    objectives = (OBJECTIVES["answer_loss"], OBJECTIVES["recall"])
    low, high = make_point(0, 0.3, 1.0), make_point(1, 0.9, 1.0)
    low = _with(low, "answer_loss", 0.5)
    high = _with(high, "answer_loss", 2.0)
    assert pick([low, high], "answer_loss", objectives).trial == 0


@pytest.mark.parametrize("choice", ["fastest", "#99", "abc", "ffffffff"])
def test_an_unknown_choice_lists_the_known_ones(
    front: list[Point], objectives: Sequence[Objective], choice: str
) -> None:
    with pytest.raises(InvalidSetting, match=r"knee, throughput, recall, decode_tokens_per_second, full, # and"):
        pick(front, choice, objectives)


def test_an_ambiguous_prefix_is_refused(front: list[Point], objectives: Sequence[Objective]) -> None:
    twins = [_with_hash(front[0], "abcd" + 60 * "0"), _with_hash(front[1], "abcd" + 60 * "1")]
    with pytest.raises(InvalidSetting, match="fits 2 architectures"):
        pick(twins, "abcd", objectives)
    assert pick(twins, "abcd1", objectives) is twins[1]


def test_an_empty_front_is_said(make_point: Make, objectives: Sequence[Objective]) -> None:
    with pytest.raises(InvalidSetting, match="front is empty"):
        pick([make_point(0, 1.0, 1.0, on_front=False)], "knee", objectives)


def _with(point: Point, metric: str, value: float) -> Point:
    return replace(point, metrics={**point.metrics, metric: Spread(value=value, low=value, high=value)})


def _with_hash(point: Point, value: str) -> Point:
    return replace(point, hash=value)
