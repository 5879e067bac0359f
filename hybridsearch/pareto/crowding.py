"""Order inside a front: points with more room around them come first (NSGA-II, 10.1109/4235.996017)."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike

from hybridsearch.pareto.dominance import Floats, Ints, points, ranks


def distances(values: ArrayLike) -> Floats:
    """Crowding distance (n,) of the points of one front: the wider the gap between neighbours, the larger.

    Per objective, the gap between the next lower and the next higher point, divided by the objective's range; the
    ends get infinity. Copies of a point share its distance, so the order of the rows has no influence.

    Raises:
        InvalidSetting: see `dominance.points`.
    """
    array = points(values)
    if len(array) == 0:
        return np.zeros(0)
    # Sorted rows without copies. (`np.unique` takes 4 times as long.)
    sorting = np.lexsort(array.T[::-1])
    rows = array[sorting]
    fresh = np.ones(len(rows), dtype=np.bool_)
    fresh[1:] = (rows[1:] != rows[:-1]).any(axis=1)
    distinct = rows[fresh]
    total = np.zeros(len(distinct))
    for objective in range(distinct.shape[1]):
        # `distinct` is in lexicographic order, so a stable sort breaks ties by the other objectives.
        order = np.argsort(distinct[:, objective], kind="stable")
        total[order] += _gaps(distinct[order, objective])
    result = np.empty(len(array))
    result[sorting] = total[np.cumsum(fresh) - 1]
    return result


@dataclass(frozen=True, slots=True)
class Ranking:
    """Points from the best to the worst."""

    ranks: Ints
    """(n,) number of the front, 0 the best."""
    distances: Floats
    """(n,) crowding distance inside the front."""
    order: Ints
    """(n,) indices: by rank, then the roomier, then the earlier row."""


def ranking(values: ArrayLike, violation: ArrayLike | None = None, *, enough: int | None = None) -> Ranking:
    """Order points by front and, inside a front, by crowding distance.

    Args:
        values: (n, objectives), minimised.
        violation: (n,), 0 where feasible.
        enough: only so many leading places are wanted; those behind may be in any order.

    Raises:
        InvalidSetting: see `dominance.ranks`.
    """
    array = points(values)
    fronts = ranks(array, violation, enough=enough)
    room = np.zeros(len(array))
    for front in range(int(fronts.max(initial=-1)) + 1):
        members = np.flatnonzero(fronts == front)
        room[members] = distances(array[members])
        if enough is not None and np.count_nonzero(fronts <= front) >= enough:
            break
    return Ranking(ranks=fronts, distances=room, order=np.lexsort((-room, fronts)))


def _gaps(ordered: Floats) -> Floats:
    """Per value of a rising sequence: distance between its neighbours over the range; infinite at the ends."""
    if ordered[0] == ordered[-1]:
        return np.zeros(len(ordered))
    finite = ordered[np.isfinite(ordered)]
    spread = float(np.ptp(finite)) if len(finite) else 0.0
    gaps = np.full(len(ordered), np.inf)
    gaps[1:-1] = np.where(ordered[2:] == ordered[:-2], 0.0, ordered[2:] - ordered[:-2]) / (spread or 1.0)
    return gaps
