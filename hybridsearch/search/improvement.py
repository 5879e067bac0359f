"""Expected hypervolume improvement by random directions, for draws of a posterior."""

import numpy as np

from hybridsearch.pareto.dominance import Floats

DIRECTIONS = 48


def improvement(draws: Floats, front: Floats, worst: Floats, numbers: np.random.Generator, pending: Floats) -> Floats:
    """Expected hypervolume improvement (candidates,) up to a constant, by random directions from the worst point.

    The hypervolume is the mean over directions of the largest box diagonal that a point spans, to the power of the
    number of objectives (2006.04655, lemma 5).

    Args:
        draws: (draws, candidates, objectives), minimised.
        front: (points, objectives), minimised.
        worst: (objectives,).
        numbers: gives the directions.
        pending: (draws, trials, objectives), minimised: what those that run will be, in the same draws. What they will
            hold is no candidate's improvement, so that workers keep apart.
    """
    count = front.shape[1]
    gain = np.maximum(worst - front, 0.0)
    unit = np.where(gain.max(axis=0) > 0, gain.max(axis=0), 1.0)
    directions = np.abs(numbers.standard_normal((DIRECTIONS, count))) + 1e-9
    directions /= np.linalg.norm(directions, axis=1, keepdims=True)

    def lengths(points: Floats) -> Floats:
        scaled = np.maximum(worst - points, 0.0) / unit
        found: Floats = (scaled[..., None, :] / directions).min(axis=-1) ** count
        return found

    reached = np.maximum(lengths(front).max(axis=0, initial=0.0), lengths(pending).max(axis=1, initial=0.0))
    better: Floats = np.maximum(lengths(draws) - reached[:, None, :], 0.0).mean(axis=(0, 2))
    return better
