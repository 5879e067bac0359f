"""A front of two objectives that grows point by point and knows the area it dominates."""

from bisect import bisect_left, bisect_right


class Staircase:
    """Non-dominated pairs (minimised) in rising order of the first value, and their hypervolume.

    The area only ever grows by what a new point adds, so thousands of additions do not cancel digits.
    An addition costs log n, plus one step for each point it removes.
    """

    def __init__(self, reference: tuple[float, float]) -> None:
        self._reference = reference
        self._first: list[float] = []
        self._second: list[float] = []  # falls while `_first` rises
        self.area = 0.0

    def __len__(self) -> int:
        return len(self._first)

    def covers(self, first: float, second: float) -> bool:
        """Whether a point of the front dominates or equals this one."""
        before = bisect_right(self._first, first)
        return before > 0 and self._second[before - 1] <= second

    def add(self, first: float, second: float) -> tuple[float, list[tuple[float, float]]]:
        """Add a point that is not covered yet; returns the area it adds and the points it dominates."""
        start = bisect_left(self._first, first)
        end = start
        while end < len(self._first) and self._second[end] >= second:
            end += 1
        gained = self._gain(first, second, start, end)
        removed = list(zip(self._first[start:end], self._second[start:end], strict=True))
        self._first[start:end] = [first]
        self._second[start:end] = [second]
        self.area += gained
        return gained, removed

    def _gain(self, first: float, second: float, start: int, end: int) -> float:
        """Area between the new point and the old stairs, whose points start..end lie above it."""
        right, top = self._reference
        if end < len(self._first):
            right = min(right, self._first[end])
        edges = [first, *self._first[start:end], right]
        heights = [self._second[start - 1] if start else top, *self._second[start:end]]
        return sum(
            max(min(edges[i + 1], right) - min(edges[i], right), 0.0) * max(min(height, top) - second, 0.0)
            for i, height in enumerate(heights)
        )
