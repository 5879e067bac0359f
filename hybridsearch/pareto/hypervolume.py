"""Exact hypervolume: the measure of what a set of points dominates, up to a reference point. All minimised.

The reference point is the worst value that still counts, fixed before the search starts (not taken from the points),
so that the numbers of one study can be compared over time and between samplers. A point that does not lie strictly
below the reference in every objective adds nothing. The unit is the product of the objectives' units.
"""

from collections.abc import Sequence

import numpy as np
from numpy.typing import ArrayLike

from hybridsearch.errors import InvalidSetting
from hybridsearch.pareto.dominance import Floats, non_dominated, points
from hybridsearch.pareto.staircase import Staircase


def hypervolume(values: ArrayLike, reference: Sequence[float]) -> float:
    """Measure of the region dominated by the points and bounded by the reference.

    Two objectives take n log n, three take n log n for the sweep over the third and the stairs of the other two;
    more use the WFG recursion (While, Bradstreet, Barone, 10.1109/TEVC.2010.2077298) down to three.

    Args:
        values: (n, objectives); dominated points and copies change nothing.
        reference: one value an objective.

    Raises:
        InvalidSetting: a value is NaN or infinite, or the reference has another length than the points.
    """
    array = checked(values, reference)
    bound = np.asarray(reference, dtype=np.float64)
    inside = array[(array < bound).all(axis=1)]
    return _measure(inside[non_dominated(inside)] if len(inside) else inside, bound)


def exclusive(point: ArrayLike, others: ArrayLike, reference: Sequence[float]) -> float:
    """How much the hypervolume of `others` grows when `point` joins them: its own box less what they share of it.

    Raises:
        InvalidSetting: see `hypervolume`.
    """
    own = checked(np.asarray(point, dtype=np.float64)[None, :], reference)[0]
    bound = np.asarray(reference, dtype=np.float64)
    if (own >= bound).any():
        return 0.0
    rest = checked(others, reference)
    shared = hypervolume(np.maximum(rest, own), reference) if len(rest) else 0.0
    return max(float(np.prod(bound - own)) - shared, 0.0)


def checked(values: ArrayLike, reference: Sequence[float]) -> Floats:
    """The values as (n, objectives), finite and as wide as the reference.

    Raises:
        InvalidSetting: they are not.
    """
    array = points(values)
    if len(array) == 0:
        return array.reshape(0, len(reference))
    if array.shape[1] != len(reference):
        raise InvalidSetting(f"points have {array.shape[1]} objectives, the reference has {len(reference)} values")
    if not (np.isfinite(array).all() and np.isfinite(reference).all()):
        raise InvalidSetting("a hypervolume needs finite points and a finite reference; leave infinite points out")
    return array


def _measure(front: Floats, bound: Floats) -> float:
    """Hypervolume of distinct or equal non-dominated rows that lie below the bound."""
    if len(front) == 0:
        return 0.0
    width = front.shape[1]
    if width == 1:
        return float(bound[0] - front[:, 0].min())
    if width == 2:
        return _area(front, bound)
    return _swept(front, bound) if width == 3 else _wfg(front, bound)


def _area(front: Floats, bound: Floats) -> float:
    ordered = front[np.lexsort((front[:, 1], front[:, 0]))]
    lowest = np.minimum.accumulate(ordered[:, 1])
    widths = np.diff(ordered[:, 0], append=bound[0])
    return float(np.sum(widths * (bound[1] - lowest)))


def _swept(front: Floats, bound: Floats) -> float:
    """Slices along the third objective; each slice is the area under the stairs of the points met so far."""
    ordered = front[np.argsort(front[:, 2], kind="stable")]
    depths = np.diff(ordered[:, 2], append=bound[2])
    stairs = Staircase((float(bound[0]), float(bound[1])))
    volume = 0.0
    for (first, second, _), depth in zip(ordered.tolist(), depths.tolist(), strict=True):
        if not stairs.covers(first, second):
            stairs.add(first, second)
        volume += stairs.area * depth
    return volume


def _wfg(front: Floats, bound: Floats) -> float:
    """Sum of each point's box less what the points after it share.

    With the last objective falling, the shared parts all end at the point's own last value: one objective less.
    """
    ordered = front[np.argsort(-front[:, -1], kind="stable")]
    flat = bound[:-1]
    volume = 0.0
    for index, row in enumerate(ordered):
        shared = np.maximum(ordered[index + 1 :, :-1], row[:-1])
        if len(shared):
            shared = shared[non_dominated(shared)]
        volume += float(bound[-1] - row[-1]) * (float(np.prod(flat - row[:-1])) - _measure(shared, flat))
    return volume
