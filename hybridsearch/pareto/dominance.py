"""Which points are best, and in which order fronts follow each other. Every objective is minimised.

Constraints come first (Deb et al., NSGA-II, 10.1109/4235.996017): a feasible point dominates every infeasible one, and
of two infeasible points the one with less violation dominates; equal violations are compared by the objectives.
Equal points do not dominate each other, so copies share their rank.
"""

from bisect import bisect_right
from collections.abc import Callable

import numpy as np
from numpy.typing import ArrayLike, NDArray

from hybridsearch.errors import InvalidSetting

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]
Mask = NDArray[np.bool_]
FEW = 8
"""Of pairs, the best in `FEW` and fewer are found front by front, more in one pass that ranks all."""


def points(values: ArrayLike) -> Floats:
    """The values as an array (n, objectives); infinities are allowed, n may be 0.

    Raises:
        InvalidSetting: they are not two-dimensional, or one is NaN.
    """
    array = np.asarray(values, dtype=np.float64)
    if array.size == 0:
        return array.reshape(0, array.shape[1] if array.ndim == 2 else 0)
    if array.ndim != 2:
        raise InvalidSetting(f"points have shape {array.shape}; give one row a point and one column an objective")
    broken = np.isnan(array).any(axis=1)
    if broken.any():
        row = int(np.flatnonzero(broken)[0])
        raise InvalidSetting(f"point {row} is {array[row].tolist()}; NaN has no rank, leave the point out")
    return array


def non_dominated(values: ArrayLike, violation: ArrayLike | None = None) -> Mask:
    """Mask (n,) of the points that no other point dominates.

    Args:
        values: (n, objectives), minimised.
        violation: (n,), 0 where a point is feasible, larger is worse; none if all are feasible.

    Raises:
        InvalidSetting: see `points`, or `violation` does not fit.
    """
    best: Mask = np.equal(ranks(values, violation, enough=1), 0)
    return best


def ranks(
    values: ArrayLike,
    violation: ArrayLike | None = None,
    *,
    enough: int | None = None,
    margins: ArrayLike | None = None,
) -> Ints:
    """Number (n,) of each point's front, 0 the best.

    Args:
        values: (n, objectives), minimised.
        violation: (n,), as in `non_dominated`.
        enough: stop once this many points have their true rank; the rest share one rank behind them.
        margins: (n, objectives), how uncertain each value is. One point then dominates another only clearly: in every
            objective it must be better by the root of the sum of both squared margins (which is again a strict partial
            order, so that fronts are well defined). None means that all values are certain.

    Raises:
        InvalidSetting: see `points`, or `violation` or `margins` do not fit.
    """
    array = points(values)
    levels = _levels(violation, len(array))
    widths = _widths(margins, array)
    result = np.zeros(len(array), dtype=np.int64)
    wanted = len(array) if enough is None else enough
    fronts = done = 0
    for level in np.unique(levels):
        members = np.flatnonzero(levels == level)
        if done >= wanted:
            result[members] = fronts
            continue
        inner = (
            _unconstrained_ranks(array[members], wanted - done)
            if widths is None
            else _clear_ranks(array[members], widths[members], wanted - done)
        )
        result[members] = inner + fronts
        done += len(members)
        fronts += int(inner.max()) + 1
    return result


def _levels(violation: ArrayLike | None, count: int) -> Floats:
    if violation is None:
        return np.zeros(count)
    levels = np.asarray(violation, dtype=np.float64)
    if levels.shape != (count,):
        raise InvalidSetting(f"violations have shape {levels.shape}; give one number for each of {count} points")
    if np.isnan(levels).any() or (levels < 0).any():
        raise InvalidSetting(f"violation {levels.min():g} is no distance; give 0 for feasible and more for worse")
    return levels


def _widths(margins: ArrayLike | None, array: Floats) -> Floats | None:
    if margins is None:
        return None
    widths = np.asarray(margins, dtype=np.float64)
    if widths.shape != array.shape:
        raise InvalidSetting(f"margins have shape {widths.shape}; give one for each of {array.shape} values")
    if not (widths >= 0).all():
        raise InvalidSetting(f"margin {widths.min():g} is no distance; give 0 for certain and more for less so")
    return widths if widths.any() else None


def _unconstrained_ranks(array: Floats, enough: int) -> Ints:
    # Sorted rows without copies: whatever dominates a row stands before it. (`np.unique` takes 4 times as long.)
    order = np.lexsort(array.T[::-1])
    rows = array[order]
    fresh = np.ones(len(rows), dtype=np.bool_)
    fresh[1:] = (rows[1:] != rows[:-1]).any(axis=1)
    distinct = rows[fresh]
    pairs = array.shape[1] == 2
    if pairs and enough * FEW > len(array):
        sorted_ranks = _ranks_of_pairs(distinct)
    else:
        sorted_ranks = _peel(distinct, enough, _front_of_sorted_pairs if pairs else _front_of_sorted)
    result = np.empty(len(array), dtype=np.int64)
    result[order] = sorted_ranks[np.cumsum(fresh) - 1]
    return result


def _clear_ranks(array: Floats, widths: Floats, enough: int) -> Ints:
    """Ranks by clear dominance; n passes over what is left, at most: for hundreds of points."""
    order = np.lexsort(array.T[::-1])
    result = np.empty(len(array), dtype=np.int64)
    left, front = order, 0
    while len(left):
        if len(array) - len(left) >= enough:
            result[left] = front
            break
        best = _clear_front_of_sorted(array[left], widths[left])
        result[left[best]] = front
        left, front = left[~best], front + 1
    return result


def _clear_front_of_sorted(rows: Floats, widths: Floats) -> Mask:
    """Mask of those that no other row clearly dominates; dominance being transitive, the front's own rows suffice."""
    mask = np.zeros(len(rows), dtype=np.bool_)
    left = np.arange(len(rows))
    while len(left):
        first, left = left[0], left[1:]
        mask[first] = True
        gap = rows[left] - rows[first]
        clear = (gap >= np.hypot(widths[left], widths[first])).all(axis=1) & (gap > 0).any(axis=1)
        left = left[~clear]
    return mask


def _ranks_of_pairs(rows: Floats) -> Ints:
    """Two objectives in n log n: a row joins the first front whose lowest second value lies above its own."""
    lowest: list[float] = []  # per front, rising
    result = np.empty(len(rows), dtype=np.int64)
    for index, second in enumerate(rows[:, 1].tolist()):
        front = bisect_right(lowest, second)
        if front == len(lowest):
            lowest.append(second)
        else:
            lowest[front] = second
        result[index] = front
    return result


def _peel(rows: Floats, enough: int, front_of: Callable[[Floats], Mask]) -> Ints:
    result = np.empty(len(rows), dtype=np.int64)
    left = np.arange(len(rows))
    front = 0
    while len(left):
        if len(rows) - len(left) >= enough:
            result[left] = front
            break
        best = front_of(rows[left])
        result[left[best]] = front
        left = left[~best]
        front += 1
    return result


def _front_of_sorted_pairs(rows: Floats) -> Mask:
    """The same for pairs: whoever has a lower second value than all before it."""
    mask = np.ones(len(rows), dtype=np.bool_)
    mask[1:] = rows[1:, 1] < np.minimum.accumulate(rows[:-1, 1])
    return mask


def _front_of_sorted(rows: Floats) -> Mask:
    """Mask of the non-dominated among distinct rows in lexicographic order."""
    mask = np.zeros(len(rows), dtype=np.bool_)
    left = np.arange(len(rows))
    while len(left):
        first = left[0]
        mask[first] = True
        left = left[(rows[left] < rows[first]).any(axis=1)]
    return mask
