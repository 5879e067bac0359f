"""How long workers are usually silent on the way to a rung, and how long a silence makes a worker a slow one."""

import math
from bisect import insort
from collections import defaultdict

ENOUGH = 5
"""Reports of a rung before its median says what is usual."""
SHORTEST_SECONDS = 60.0
"""A shorter silence is not worth another worker: starting one takes several seconds."""


class Paces:
    """Silences by rung, as they end with a report.

    Args:
        factor: how many times the median a silence may last; none tolerates any.
    """

    def __init__(self, factor: float | None) -> None:
        self._factor = factor
        self._seconds: defaultdict[int, list[float]] = defaultdict(list)

    def record(self, rung: int, seconds: float) -> None:
        """A worker has reported the rung after so many seconds of silence."""
        insort(self._seconds[rung], seconds)

    def usual(self, rung: int) -> float | None:
        """The median of the rung's silences, or none while there are few."""
        known = self._seconds[rung]
        return known[len(known) // 2] if len(known) >= ENOUGH else None

    def longest(self, rung: int) -> float:
        """Seconds of silence that make a worker a slow one; infinite while nothing is known of the rung."""
        usual = self.usual(rung)
        if self._factor is None or usual is None:
            return math.inf
        return max(SHORTEST_SECONDS, self._factor * usual)
