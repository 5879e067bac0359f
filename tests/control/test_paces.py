"""How long a worker may be silent before it counts as slow."""

import math

import pytest

from hybridsearch.control.paces import ENOUGH, SHORTEST_SECONDS, Paces


def told(factor: float | None, *seconds: float) -> Paces:
    paces = Paces(factor)
    for silence in seconds:
        paces.record(1, silence)
    return paces


def test_nothing_is_slow_before_it_is_known_what_is_usual() -> None:
    paces = told(10.0, *[30.0] * (ENOUGH - 1))
    assert paces.longest(1) == math.inf
    paces.record(1, 30.0)
    assert paces.longest(1) == 300.0
    assert paces.longest(0) == math.inf


@pytest.mark.parametrize(
    ("factor", "seconds", "longest"),
    [
        (10.0, [1000.0, 20.0, 10.0, 30.0, 40.0], 300.0),
        (10.0, [0.1] * 5, SHORTEST_SECONDS),
        (None, [30.0] * 5, math.inf),
    ],
)
def test_the_limit_is_a_multiple_of_the_median(factor: float | None, seconds: list[float], longest: float) -> None:
    assert told(factor, *seconds).longest(1) == longest
