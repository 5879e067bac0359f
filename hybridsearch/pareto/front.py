"""The front of a running search: one point after the other, in any number of objectives (all minimised)."""

from collections.abc import Hashable, Iterable, Sequence, Set
from math import isfinite
from typing import Generic, TypeVar

from hybridsearch.errors import InvalidSetting
from hybridsearch.pareto.staircase import Staircase

Key = TypeVar("Key", bound=Hashable)
Point = tuple[float, ...]


class Front(Generic[Key]):
    """Non-dominated points with their keys, and their hypervolume, kept up to date.

    Equal points stand side by side, each with its key. Only feasible points belong in here: the caller leaves the
    others out. Two objectives cost log n an addition; more cost a pass over the front and one exclusive hypervolume.
    """

    def __init__(self, reference: Sequence[float]) -> None:
        """`reference`: worst value that still counts, one an objective; see `hybridsearch.pareto.hypervolume`."""
        self.reference: Point = tuple(float(value) for value in reference)
        self._keys: dict[Point, list[Key]] = {}
        self._points: dict[Key, Point] = {}
        self._volume = 0.0
        self._stairs = Staircase((self.reference[0], self.reference[1])) if len(self.reference) == 2 else None

    @property
    def hypervolume(self) -> float:
        """Measure of what the front dominates."""
        return self._volume

    @property
    def members(self) -> list[tuple[Key, Point]]:
        """Keys and points, by rising first objective; equal points in the order they came."""
        return [(key, point) for point in sorted(self._keys) for key in self._keys[point]]

    @property
    def keys(self) -> Set[Key]:
        """Keys of the points on the front, as they are now and later."""
        return self._points.keys()

    def add(self, point: Sequence[float], key: Key) -> bool:
        """Add a point; returns whether it stands on the front (and those it dominates do not, any more).

        Raises:
            InvalidSetting: a value is NaN or infinite, or the number of objectives differs from the reference's.
        """
        row: Point = tuple(float(value) for value in point)
        if len(row) != len(self.reference):
            raise InvalidSetting(f"the point has {len(row)} objectives, the reference has {len(self.reference)} values")
        if not all(map(isfinite, (*row, *self.reference))):
            raise InvalidSetting(
                f"point {row} or reference {self.reference} is not finite and has no hypervolume; leave the point out"
            )
        if row in self._keys:
            self._keys[row].append(key)
            self._points[key] = row
            return True
        return self._add_pair(row, key) if self._stairs is not None else self._add_row(row, key)

    def _add_pair(self, row: Point, key: Key) -> bool:
        assert self._stairs is not None
        if self._stairs.covers(row[0], row[1]):
            return False
        _, removed = self._stairs.add(row[0], row[1])
        self._exchange(removed, row, key)
        self._volume = self._stairs.area
        return True

    def _add_row(self, row: Point, key: Key) -> bool:
        # Two objectives need no arrays, and commands that read a front not the 0.1 s in which numpy is imported.
        import numpy as np

        from hybridsearch.pareto.hypervolume import exclusive

        rows = np.array(list(self._keys), dtype=np.float64).reshape(-1, len(row))
        if (rows <= row).all(axis=1).any():
            return False
        self._volume += exclusive(row, rows, self.reference)
        self._exchange(map(tuple, rows[(rows >= row).all(axis=1)].tolist()), row, key)
        return True

    def _exchange(self, dominated: Iterable[Point], row: Point, key: Key) -> None:
        for gone in dominated:
            for theirs in self._keys.pop(gone):
                self._points.pop(theirs, None)
        self._keys[row] = [key]
        self._points[key] = row
