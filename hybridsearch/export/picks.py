"""Which architecture of a study is meant: the knee, the best in one objective, a control, a trial or a hash."""

import re
from collections.abc import Sequence

from hybridsearch.errors import InvalidSetting
from hybridsearch.objectives import Objective
from hybridsearch.reporting.points import Point

THROUGHPUT = "throughput"
"""Short for the first objective in tokens/s."""
PREFIX = re.compile(r"[0-9a-f]{4,64}")


def pick(points: Sequence[Point], choice: str, objectives: Sequence[Objective]) -> Point:
    """The point that `choice` names: `knee`, an objective, `throughput`, a control, `#` and a trial, or a hash prefix.

    The first three look at the front only; ties go to the better first objective, then to the earlier trial.

    Raises:
        InvalidSetting: nothing or more than one thing is meant.
    """
    by_name = {objective.name: objective for objective in objectives}
    speed = next((o for o in objectives if o.name.endswith("tokens_per_second")), None)
    if choice == THROUGHPUT and speed is not None:
        return _best(_front(points), speed, objectives[0])
    if choice in by_name:
        return _best(_front(points), by_name[choice], objectives[0])
    if choice == "knee":
        return knee(_front(points), objectives)
    return _named(points, choice, objectives)


def knee(front: Sequence[Point], objectives: Sequence[Objective]) -> Point:
    """The point farthest above the line between the front's extremes.

    Every objective is scaled to 0 (worst on the front) .. 1 (best). With two objectives the extremes are (0, 1) and
    (1, 0), and the distance above the line through them is (sum - 1) / sqrt(2): so the largest sum wins. With more
    objectives the same sum is the distance from the plane through the unit points. A front that bends inwards has its
    knee at an extreme.
    """
    ranges = [_range(front, objective) for objective in objectives]

    def height(point: Point) -> float:
        return sum(
            (_merit(point, objective) - worst) / (best - worst) if best > worst else 0.0
            for objective, (worst, best) in zip(objectives, ranges, strict=True)
        )

    # Rounded, so that points that are equally far but for the last bit count as a tie.
    return max(front, key=lambda p: (round(height(p), 9), _merit(p, objectives[0]), -p.trial))


def _best(front: Sequence[Point], objective: Objective, first: Objective) -> Point:
    return max(front, key=lambda p: (_merit(p, objective), _merit(p, first), -p.trial))


def _named(points: Sequence[Point], choice: str, objectives: Sequence[Objective]) -> Point:
    """A control, a trial's number after `#`, or the digits that a hash starts with."""
    found = [p for p in points if p.control == choice or f"#{p.trial}" == choice]
    if not found and PREFIX.fullmatch(choice):
        found = [p for p in points if p.hash.startswith(choice)]
    hashes = sorted({p.hash for p in found})
    if len(hashes) > 1:
        raise InvalidSetting(f"{choice!r} fits {len(hashes)} architectures, {hashes[0][:12]} and {hashes[1][:12]}; "
                             "give more digits")  # fmt: skip
    if not found:
        words = ["knee", THROUGHPUT, *(o.name for o in objectives), *sorted({p.control for p in points if p.control})]
        raise InvalidSetting(
            f"no finished trial is called {choice!r}; use {', '.join(words)}, # and a trial's number, "
            "or at least 4 digits of a hash"
        )
    return min(found, key=lambda p: (not p.on_front, p.trial))


def _front(points: Sequence[Point]) -> list[Point]:
    front = [p for p in points if p.on_front]
    if not front:
        raise InvalidSetting("the front is empty: no trial has finished within the constraints yet")
    return front


def _range(front: Sequence[Point], objective: Objective) -> tuple[float, float]:
    merits = [_merit(p, objective) for p in front]
    return min(merits), max(merits)


def _merit(point: Point, objective: Objective) -> float:
    """The objective's value, larger is better."""
    value = point.metrics[objective.name].value
    return value if objective.direction == "maximize" else -value
