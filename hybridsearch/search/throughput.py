"""Throughput of an architecture from those of others: seconds a token add up over its layers.

Every mixer at a width costs so much, every unit of feed-forward so much, and every architecture a constant (embedding,
head, launches), all of it none or more: a non-negative least squares fit over what was measured. What branches that run
side by side or routed tokens cost does not add up; how wrong the sum is is therefore measured on architectures that the
fit has not seen, and nothing should be decided by a model whose error is unknown or large.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from hybridsearch.pareto.dominance import Floats
from hybridsearch.spec.architecture import Architecture

FOLDS = 5
ENOUGH = 20
"""Measured architectures below which there is no model: four for each one held out."""
SWEEPS = 2000
"""Most passes of coordinate descent; fits of 20 terms end after some hundreds."""

Term = tuple[str, int]
"""A mixer's canonical text and the width it works at; "" and 0 for the constant, "feed-forward" and 0 for that."""
CONSTANT: Term = ("", 0)
FEED_FORWARD: Term = ("feed-forward", 0)


@dataclass(frozen=True, slots=True)
class Error:
    """How far predictions of held-out architectures were off, relative to what was measured."""

    median: float
    most: float
    """Nine of ten were off by no more."""
    architectures: int


@dataclass(frozen=True, slots=True)
class Throughput:
    """An additive model of one phase at one shape."""

    seconds: dict[Term, float]
    """Seconds a token, by term."""
    error: Error

    def tokens_per_second(self, architecture: Architecture) -> float | None:
        """The prediction; none if it has a mixer that was never measured."""
        terms = terms_of(architecture)
        if not terms.keys() <= self.seconds.keys():
            return None
        total = sum(self.seconds[term] * amount for term, amount in terms.items())
        return 1.0 / total if total > 0 else None


def terms_of(architecture: Architecture) -> dict[Term, float]:
    """How much of each term an architecture has."""
    found: dict[Term, float] = {CONSTANT: 1.0}
    for layer in architecture.layers:
        term = (layer.mixer.model_dump_json(), architecture.width)
        found[term] = found.get(term, 0.0) + 1.0
        if layer.feed_forward:
            found[FEED_FORWARD] = found.get(FEED_FORWARD, 0.0) + architecture.width * layer.feed_forward
    return found


def learn(architectures: Sequence[Architecture], tokens_per_second: Sequence[float]) -> Throughput | None:
    """The model of what was measured, with its held-out error; none from fewer than `ENOUGH` architectures.

    Args:
        architectures: measured at one phase and shape, on one device, in any order.
        tokens_per_second: positive.
    """
    if len(architectures) < ENOUGH:
        return None
    rows = [terms_of(architecture) for architecture in architectures]
    measured = np.asarray(tokens_per_second, dtype=np.float64)
    errors = _held_out_errors(rows, measured)
    if not errors:
        return None
    error = Error(float(np.median(errors)), float(np.quantile(errors, 0.9)), len(errors))
    return Throughput(_fitted(rows, measured), error)


def _held_out_errors(rows: Sequence[dict[Term, float]], measured: Floats) -> list[float]:
    """Of every architecture whose mixers the other folds know."""
    errors = []
    for fold in range(FOLDS):
        kept = [index for index in range(len(rows)) if index % FOLDS != fold]
        seconds = _fitted([rows[index] for index in kept], measured[kept])
        for index in range(fold, len(rows), FOLDS):
            if rows[index].keys() <= seconds.keys():
                total = sum(seconds[term] * amount for term, amount in rows[index].items())
                errors.append(abs(1.0 / (total * float(measured[index])) - 1.0) if total > 0 else math.inf)
    return errors


def _fitted(rows: Sequence[dict[Term, float]], measured: Floats) -> dict[Term, float]:
    terms = list(dict.fromkeys(term for row in rows for term in row))
    table = np.array([[row.get(term, 0.0) for term in terms] for row in rows])
    # Relative errors count: every equation is divided by its seconds a token.
    weights = non_negative_least_squares(table * measured[:, None], np.ones(len(rows)))
    return dict(zip(terms, weights.tolist(), strict=True))


def non_negative_least_squares(table: Floats, targets: Floats) -> Floats:
    """The x >= 0 for which `table @ x` is nearest to the targets, by cyclic coordinate descent.

    Args:
        table: (n, terms).
        targets: (n,).
    """
    size = np.linalg.norm(table, axis=0)
    scaled = table / np.where(size > 0, size, 1.0)
    gram, aim = scaled.T @ scaled, scaled.T @ targets
    found = np.zeros(table.shape[1])
    for _ in range(SWEEPS):
        largest = 0.0
        for term in range(len(found)):
            if gram[term, term] == 0:
                continue
            moved = max(0.0, found[term] + float(aim[term] - gram[term] @ found) / gram[term, term])
            largest = max(largest, abs(moved - found[term]))
            found[term] = moved
        if largest <= 1e-9 * max(float(np.abs(found).max(initial=0.0)), 1e-300):
            break
    weights: Floats = found / np.where(size > 0, size, 1.0)
    return weights
