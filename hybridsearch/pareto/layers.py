"""The fronts of a set of points that grows: where one more point stands, without ranking all the others again.

A point that joins moves only those that it dominates in its own front, and these only those that they dominate in the
next one (non-domination level update, Li et al., 10.1109/TCYB.2016.2621008). Nothing is ever changed in place: a front
that a point changes is made anew, the others are shared.
"""

from abc import ABC, abstractmethod
from bisect import bisect_left, bisect_right
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import chain

import numpy as np

from hybridsearch.pareto.dominance import Floats, Mask, ranks


@dataclass(frozen=True, slots=True)
class Place:
    """A point to be ranked."""

    number: int
    """What it is known by."""
    values: tuple[float, ...]
    """Minimised."""
    violation: float = 0.0
    """0 where it is feasible; of two points, the one with less stands before the other."""
    margins: tuple[float, ...] = ()
    """How uncertain each value is, as in `dominance.ranks`; empty where the values of all points are certain."""


@dataclass(frozen=True, slots=True)
class Standing:
    """Where a point stands among others."""

    front: int
    """Number of its front, 0 the best."""
    ahead: int
    """Points in better fronts."""
    beside: tuple[int, ...]
    """Numbers of the points in its front, in no particular order."""


class Layers:
    """Fronts of points, the best first: `dominance.ranks` of points that come one after the other."""

    def __init__(self, levels: dict[float, tuple["_Layer", ...]] | None = None) -> None:
        self._levels = levels or {}
        """Fronts of the points with the same violation."""
        self._grown: tuple[Place, Layers] | None = None

    @classmethod
    def of(cls, places: Sequence[Place]) -> "Layers":
        """The fronts of points that are all known.

        Raises:
            InvalidSetting: see `dominance.ranks`.
        """
        groups: dict[tuple[float, int], list[Place]] = {}
        for place, rank in zip(places, _ranks(places), strict=True):
            groups.setdefault((place.violation, rank), []).append(place)
        levels: dict[float, tuple[_Layer, ...]] = {}
        for level, rank in sorted(groups):
            levels[level] = (*levels.get(level, ()), _layer(groups[level, rank]))
        return cls(levels)

    def __iter__(self) -> Iterator[tuple[int, ...]]:
        """The numbers in each front, the best front first."""
        return (layer.numbers for level in sorted(self._levels) for layer in self._levels[level])

    def __len__(self) -> int:
        """Number of fronts."""
        return sum(map(len, self._levels.values()))

    def with_point(self, place: Place) -> "Layers":
        """The fronts with one more point; either all points have margins, or none.

        Raises:
            InvalidSetting: see `dominance.ranks`.
        """
        # A result is placed once to decide on it, and again when it is recorded.
        if self._grown is None or self._grown[0] != place:
            self._grown = place, self._with(place)
        return self._grown[1]

    def _with(self, place: Place) -> "Layers":
        _ranks([place])
        fronts = self._levels.get(place.violation, ())
        at = _front(fronts, place)
        moving: _Layer | None = _layer([place])
        changed: list[_Layer] = []
        while moving is not None and at + len(changed) < len(fronts):
            stays, moving = fronts[at + len(changed)].joined(moving)
            changed.append(stays)
        last = () if moving is None else (moving,)
        fronts = (*fronts[:at], *changed, *last, *fronts[at + len(changed) :])
        return Layers({**self._levels, place.violation: fronts})

    def standing(self, place: Place) -> Standing:
        """Where a point stands that is one of these."""
        fronts = self._levels[place.violation]
        at = _front(fronts, place)
        better = [self._levels[level] for level in self._levels if level < place.violation]
        ahead = sum(len(layer.numbers) for layer in chain(*better, fronts[:at]))
        return Standing(front=at + sum(map(len, better)), ahead=ahead, beside=fronts[at].numbers)


class _Layer(ABC):
    """One front: points that do not dominate each other."""

    numbers: tuple[int, ...]

    @abstractmethod
    def dominates(self, place: Place) -> bool:
        """Whether one of the points does."""

    @abstractmethod
    def joined(self, others: "_Layer") -> tuple["_Layer", "_Layer | None"]:
        """The front with points that it does not dominate, and those of its own that they dominate."""


class _Stairs(_Layer):
    """Pairs without margins, by rising first and falling second value; equal ones share a step."""

    def __init__(self, first: list[float], negated: list[float], steps: list[tuple[int, ...]]) -> None:
        self._first, self._steps = first, steps
        self._negated = negated  # the second values, rising like the first
        self.numbers = tuple(chain.from_iterable(steps))

    @classmethod
    def of(cls, places: Sequence[Place]) -> "_Stairs":
        steps: dict[tuple[float, ...], tuple[int, ...]] = {}
        for place in places:
            steps[place.values] = (*steps.get(place.values, ()), place.number)
        rising = sorted(steps)
        return cls([a for a, _ in rising], [-b for _, b in rising], [steps[values] for values in rising])

    def dominates(self, place: Place) -> bool:
        first, second = place.values
        before = bisect_right(self._first, first) - 1
        if before < 0 or -self._negated[before] > second:
            return False
        return (self._first[before], -self._negated[before]) != (first, second)

    def joined(self, others: _Layer) -> tuple[_Layer, _Layer | None]:
        """Points that come from one front are neighbours in it, and so are those that they dominate here."""
        assert isinstance(others, _Stairs)
        start = bisect_left(self._first, others._first[0])
        end = max(start, bisect_right(self._negated, others._negated[-1]))
        steps = others._steps
        copies = end > start and (self._first[start], self._negated[start]) == (others._first[0], others._negated[0])
        if copies:  # of a single new point; it dominates nobody here, as the point that it equals does not
            return self._exchanged(start, start + 1, others, [(*self._steps[start], *steps[0])]), None
        gone = slice(start, end)
        moved = _Stairs(self._first[gone], self._negated[gone], self._steps[gone]) if end > start else None
        return self._exchanged(start, end, others, steps), moved

    def _exchanged(self, start: int, end: int, others: "_Stairs", steps: list[tuple[int, ...]]) -> "_Stairs":
        return _Stairs(
            [*self._first[:start], *others._first, *self._first[end:]],
            [*self._negated[:start], *others._negated, *self._negated[end:]],
            [*self._steps[:start], *steps, *self._steps[end:]],
        )


class _Cloud(_Layer):
    """Any number of objectives, with margins or without."""

    def __init__(self, values: Floats, margins: Floats | None, numbers: tuple[int, ...]) -> None:
        self._values, self._margins, self.numbers = values, margins, numbers

    @classmethod
    def of(cls, places: Sequence[Place]) -> "_Cloud":
        margins = np.array([place.margins for place in places]) if places[0].margins else None
        return cls(np.array([place.values for place in places]), margins, tuple(place.number for place in places))

    def dominates(self, place: Place) -> bool:
        return bool(_dominance(self, _Cloud.of([place])).any())

    def joined(self, others: _Layer) -> tuple[_Layer, _Layer | None]:
        assert isinstance(others, _Cloud)
        gone = _dominance(others, self).any(axis=0)
        numbers = np.array(self.numbers)
        values = np.concatenate([self._values[~gone], others._values])
        margins = None
        if self._margins is not None and others._margins is not None:
            margins = np.concatenate([self._margins[~gone], others._margins])
        stays = _Cloud(values, margins, (*numbers[~gone].tolist(), *others.numbers))
        if not gone.any():
            return stays, None
        left = None if self._margins is None else self._margins[gone]
        return stays, _Cloud(self._values[gone], left, tuple(numbers[gone].tolist()))


def _dominance(by: _Cloud, of: _Cloud) -> Mask:
    """Which points (by, of) of the one dominate which of the other."""
    better, worse = by._values[:, None], of._values[None, :]
    if by._margins is None or of._margins is None:
        return np.logical_and((better <= worse).all(axis=2), (better < worse).any(axis=2))
    gap = worse - better
    clear = (gap >= np.hypot(of._margins[None, :], by._margins[:, None])).all(axis=2)
    return np.logical_and(clear, (gap > 0).any(axis=2))


def _layer(places: Sequence[Place]) -> _Layer:
    return _Cloud.of(places) if places[0].margins or len(places[0].values) != 2 else _Stairs.of(places)


def _front(fronts: Sequence[_Layer], place: Place) -> int:
    """The first front without a point that dominates this one: all before it have one."""
    low, high = 0, len(fronts)
    while low < high:
        middle = (low + high) // 2
        low, high = (middle + 1, high) if fronts[middle].dominates(place) else (low, middle)
    return low


def _ranks(places: Sequence[Place]) -> list[int]:
    margins = [place.margins for place in places] if places and places[0].margins else None
    values = [place.values for place in places]
    found: list[int] = ranks(values, [place.violation for place in places], margins=margins).tolist()
    return found
