"""Bayesian linear regression with a closed-form posterior; noise, scale and transformation chosen by the evidence."""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from hybridsearch.pareto.dominance import Floats

SIGNALS = (0.05, 0.2, 0.6, 1.5)
"""Candidates for the standard deviation of the weights, in units of the standardised target and the terms' spreads."""
NOISES = (0.02, 0.06, 0.15, 0.3, 0.6, 1.0)
"""Candidates for the standard deviation of the noise, in the same units."""
GRID = np.array([(signal, noise) for signal in SIGNALS for noise in NOISES])
TINY = 1e-12
"""Share of the largest squared singular value below which a direction was not seen."""


@dataclass(frozen=True, slots=True)
class Scale:
    """A monotone transformation in which a target may be closer to linear."""

    name: str
    forward: Callable[[Floats], Floats]
    backward: Callable[[Floats], Floats]
    log_slope: Callable[[Floats], Floats]
    """Log of the derivative's size: what the change of variables adds to the evidence."""
    fits: Callable[[Floats], bool]
    """Whether targets may be put on it."""
    rising: bool = True


EDGE = 0.01
"""Kept between a share and 0 or 1 on the logit scale."""
SCALES = (
    Scale("value", lambda y: y, lambda z: z, np.zeros_like, lambda y: True),
    Scale("log", np.log, np.exp, lambda y: -np.log(y), lambda y: bool(y.min() > 0)),
    # Seconds a token add up over layers; tokens a second do not.
    Scale(
        "reciprocal",
        lambda y: 1 / y,
        lambda z: 1 / np.maximum(z, 1e-300),
        lambda y: -2 * np.log(y),
        lambda y: bool(y.min() > 0),
        rising=False,
    ),
    # Accuracies saturate at both ends.
    Scale(
        "logit",
        lambda y: np.log((y + EDGE) / (1 - y + EDGE)),
        lambda z: (1 + 2 * EDGE) / (1 + np.exp(-np.clip(z, -30, 30))) - EDGE,
        lambda y: np.log(1 / (y + EDGE) + 1 / (1 - y + EDGE)),
        lambda y: bool(y.min() >= 0 and y.max() <= 1),
    ),
)


@dataclass(frozen=True, slots=True)
class Model:
    """The posterior of one target."""

    scale: Scale
    mean: Floats
    """(terms,) posterior mean of the weights, for targets on the scale, standardised by `centre` and `unit`."""
    middle: Floats
    """(terms,) mean of the rows: weights say what a distance from it is worth."""
    centre: float
    unit: float
    noise: float
    """Standard deviation of an observation, in units of `unit`."""
    _directions: Floats
    _known: Floats
    _spread: Floats

    def weights(self, rng: np.random.Generator, count: int) -> Floats:
        """Draws (count, terms) of the weights from the posterior."""
        white = rng.standard_normal((count, len(self.mean)))
        along = white @ self._directions.T
        drawn: Floats = self.mean + self._spread * (white - (along * (1 - np.sqrt(1 - self._known))) @ self._directions)
        return drawn

    def values(self, rows: Floats, weights: Floats) -> Floats:
        """Targets (draws, rows) in their own unit, of rows (rows, terms) under weights (draws, terms)."""
        found: Floats = self.scale.backward(weights @ (rows - self.middle).T * self.unit + self.centre)
        return found


def fit(rows: Floats, targets: Floats, spreads: Floats) -> Model:
    """The posterior with the largest evidence over scales, signals and noises.

    Args:
        rows: (n, terms).
        targets: (n,), finite.
        spreads: (terms,) relative prior standard deviations.
    """
    return fit_all(rows, targets[:, None], spreads, np.zeros((len(targets), 1)))[0]


def fit_all(rows: Floats, targets: Floats, spreads: Floats, noise: Floats) -> list[Model]:
    """The same of several targets (n, targets); rows are taken apart once for all that weigh them alike.

    Args:
        rows: (n, terms).
        targets: (n, targets), finite.
        spreads: (terms,) relative prior standard deviations.
        noise: (n, targets) variance that an observation has beyond the model's own, in squared units of the targets.
    """
    designs: dict[bytes, _Design] = {}
    models = []
    for target, extra in zip(np.ascontiguousarray(targets.T), noise.T, strict=True):
        # Rows with further noise count less: all are divided by what they have beyond the usual noise of about 0.3.
        weight = 1.0 / np.sqrt(1.0 + extra / (0.3 * (float(target.std()) or 1.0)) ** 2)
        key = weight.tobytes()
        if key not in designs:
            designs[key] = _Design(rows, spreads, weight)
        scales = [scale for scale in SCALES if scale.fits(target)]
        models.append(max((_fit(designs[key], target, scale) for scale in scales), key=lambda found: found[0])[1])
    return models


class _Design:
    """Rows taken apart once, for all scales of a target."""

    def __init__(self, rows: Floats, spreads: Floats, weight: Floats) -> None:
        self.spreads, self.weight = spreads, weight
        self.share = weight**2 / np.sum(weight**2)
        self.middle: Floats = self.share @ rows
        self.scaled: Floats = (rows - self.middle) * spreads * weight[:, None]
        # The singular values and directions of the rows, at a third of what taking the rows themselves apart costs.
        squares, directions = np.linalg.eigh(self.scaled.T @ self.scaled)
        known = squares > TINY * squares[-1]
        self.s: Floats = np.sqrt(squares[known])
        self.directions: Floats = directions.T[known]

    def seen(self, targets: Floats) -> Floats:
        """The targets along the directions."""
        along: Floats = self.directions @ (self.scaled.T @ targets) / self.s
        return along


def _fit(design: _Design, targets: Floats, scale: Scale) -> tuple[float, Model]:
    z = scale.forward(targets)
    unit, centre = float(z.std()) or 1.0, float(design.share @ z)
    y = (z - centre) / unit * design.weight
    s, directions, spreads = design.s, design.directions, design.spreads
    seen = design.seen(y)
    rest = max(float(y @ y - seen @ seen), 0.0)
    left = len(y) - len(s)
    variance = (s * GRID[:, :1]) ** 2 + GRID[:, 1:] ** 2
    fitted = np.sum(seen**2 / variance + np.log(variance), axis=1)
    evidences = -0.5 * (fitted + rest / GRID[:, 1] ** 2 + 2 * left * np.log(GRID[:, 1]))
    best = int(evidences.argmax())
    evidence, (signal, spread) = float(evidences[best]), GRID[best].tolist()
    known = (s * signal) ** 2 / ((s * signal) ** 2 + spread**2)
    gain = s * signal**2 / ((s * signal) ** 2 + spread**2)
    mean = spreads * (directions.T @ (gain * seen))
    jacobian = float(np.sum(scale.log_slope(targets))) - len(y) * float(np.log(unit))
    model = Model(scale, mean, design.middle, centre, unit, spread, directions, known, signal * spreads)
    return evidence + jacobian, model
