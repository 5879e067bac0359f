"""Which layers of a stack are full attention, given a linear:full ratio and a placement. Positions count from 0."""

import math
from collections.abc import Iterator
from functools import lru_cache
from itertools import combinations

PLACEMENTS = ("uniform", "first", "last", "middle", "ends", "scattered")


def full_count(ratio: str, depth: int) -> int:
    """Full layers of `depth` layers at linear:full; a hybrid ratio keeps at least one of each where depth allows."""
    linear, full = map(int, ratio.split(":"))
    if not full:
        return 0
    if not linear:
        return depth
    return max(1, depth * full // (linear + full))


@lru_cache(maxsize=4096)
def positions(ratio: str, placement: str, depth: int) -> tuple[int, ...]:
    """The full layers of a placement other than `scattered`, rising.

    `uniform` spaces them evenly and never first: at 3:1 every fourth layer is full, as in 2507.06457; a stack too
    short for one full layer has its last one full. `ends` puts the larger half last.
    """
    linear, full = map(int, ratio.split(":"))
    count = full_count(ratio, depth)
    if placement == "uniform" and depth * full >= linear + full:
        period = linear + full
        return tuple(t for t in range(depth) if (t + 1) * full // period > t * full // period)
    if placement == "first":
        return tuple(range(count))
    if placement == "middle":
        start = (depth - count) // 2
        return tuple(range(start, start + count))
    if placement == "ends":
        return (*range(count // 2), *range(depth - (count - count // 2), depth))
    return tuple(range(depth - count, depth))


def subsets(depth: int, count: int) -> Iterator[tuple[int, ...]]:
    """Every `scattered` placement of `count` full layers, in the order of `rank`."""
    return combinations(range(depth), count)


def rank(chosen: tuple[int, ...], depth: int) -> int:
    """Place of rising positions among all `subsets` of their size."""
    result, previous = 0, -1
    for index, position in enumerate(chosen):
        left = len(chosen) - index - 1
        result += sum(math.comb(depth - 1 - skipped, left) for skipped in range(previous + 1, position))
        previous = position
    return result


def unrank(index: int, depth: int, count: int) -> tuple[int, ...]:
    """The positions whose `rank` is `index`, 0 <= index < comb(depth, count)."""
    chosen: list[int] = []
    position = 0
    while len(chosen) < count:
        here = math.comb(depth - 1 - position, count - len(chosen) - 1)
        if index < here:
            chosen.append(position)
        else:
            index -= here
        position += 1
    return tuple(chosen)
