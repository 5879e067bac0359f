"""Order inside a front by farthest-first traversal: each next point is the one farthest from those before it.

Any first k of them form a net that covers the front as evenly as k points can within a factor of two (Gonzalez,
10.1016/0304-3975(85)90224-5); MO-ASHA orders a rung by it (2106.12639).
"""

import numpy as np
from numpy.typing import ArrayLike

from hybridsearch.pareto.dominance import Floats, Ints, points


def net_order(values: ArrayLike) -> Ints:
    """Indices (n,) of the points of one front, best first; equal distances go to the earlier row.

    It begins at the best value of the first objective (of equals, the best in the next). Objectives are divided by
    their range; infinite values count as the worst finite one.

    Args:
        values: (n, objectives), minimised.

    Raises:
        InvalidSetting: see `dominance.points`.
    """
    array = _scaled(points(values))
    count = len(array)
    order = np.empty(count, dtype=np.int64)
    if count == 0:
        return order
    order[0] = np.lexsort((np.arange(count), *array.T[::-1]))[0]
    gap = np.full(count, np.inf)
    for place in range(1, count):
        gap = np.minimum(gap, np.linalg.norm(array - array[order[place - 1]], axis=1))
        gap[order[:place]] = -1.0
        order[place] = np.argmax(gap)
    return order


def _scaled(array: Floats) -> Floats:
    if array.size == 0:
        return array
    finite = np.where(np.isfinite(array), array, np.nan)
    known = ~np.isnan(finite).all(axis=0)
    low, high = np.zeros(array.shape[1]), np.ones(array.shape[1])
    low[known], high[known] = np.nanmin(finite[:, known], axis=0), np.nanmax(finite[:, known], axis=0)
    spread = np.where(high > low, high - low, 1.0)
    scaled: Floats = (np.clip(array, low, high) - low) / spread
    return scaled
