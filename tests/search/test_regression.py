"""Bayesian linear regression: against the textbook posterior, and what the evidence chooses."""

import numpy as np
import pytest

from hybridsearch.search.regression import SCALES, fit, fit_all

RNG = np.random.default_rng(0)
ROWS = RNG.integers(0, 3, (60, 5)).astype(float)
WEIGHTS = np.array([1.0, -2.0, 0.5, 0.0, 3.0])
SPREADS = np.array([1.0, 1.0, 0.5, 0.5, 2.0])


@pytest.mark.parametrize("count", [3, 5, 60])
def test_mean_and_spread_are_those_of_the_textbook(count: int) -> None:
    rows, targets = ROWS[:count], ROWS[:count] @ WEIGHTS - 50 + RNG.normal(0, 0.1, count)
    model = fit(rows, targets, SPREADS)
    assert model.scale.name == "value"
    y = (targets - model.centre) / model.unit
    signal = model._spread[0] / SPREADS[0]
    rows = rows - model.middle
    precision = rows.T @ rows / model.noise**2 + np.diag(1 / (signal * SPREADS) ** 2)
    covariance = np.linalg.inv(precision)
    assert model.mean == pytest.approx(covariance @ rows.T @ y / model.noise**2, abs=1e-8)
    drawn = model.weights(np.random.default_rng(1), 40_000)
    assert drawn.mean(axis=0) == pytest.approx(model.mean, abs=0.03)
    scale = np.sqrt(np.outer(np.diag(covariance), np.diag(covariance)))
    assert np.abs(np.cov(drawn.T) - covariance).max() < 0.05 * scale.max()


@pytest.mark.parametrize("scale", SCALES, ids=lambda scale: scale.name)
def test_the_evidence_finds_the_scale_on_which_a_target_is_linear(scale: object) -> None:
    found = next(s for s in SCALES if s is scale)
    offset = {"value": -3.0, "log": 0.0, "reciprocal": 3.0, "logit": -2.0}[found.name]
    size = {"value": 1.0, "log": 1.0, "reciprocal": 0.3, "logit": 0.25}[found.name]
    z = offset + size * (ROWS @ np.array([1.0, 0.5, 0.2, 0.8, 1.5]))
    targets = found.backward(z + RNG.normal(0, 0.01, len(z)))
    model = fit(ROWS, targets, SPREADS)
    assert model.scale.name == found.name
    assert np.corrcoef(model.values(ROWS, model.mean[None])[0], targets)[0, 1] > 0.999


@pytest.mark.parametrize("scale", SCALES, ids=lambda scale: scale.name)
def test_scales_lead_back_and_their_slopes_are_the_derivative(scale: object) -> None:
    found = next(s for s in SCALES if s is scale)
    y = np.linspace(0.05, 0.95, 19)
    assert found.backward(found.forward(y)) == pytest.approx(y)
    step = 1e-6
    slope = (found.forward(y + step) - found.forward(y - step)) / (2 * step)
    assert np.exp(found.log_slope(y)) == pytest.approx(np.abs(slope), rel=1e-4)
    assert (slope > 0).all() == found.rising


def test_an_uncertain_observation_counts_less() -> None:
    rows = np.eye(3)[[0, 0, 1, 1, 2, 2]]
    targets = np.array([-1.0, -1.1, 0.0, 0.1, 5.0, 9.0])
    wild = np.array([0.0, 0, 0, 0, 0, 1e6])
    sure, unsure = fit_all(rows, np.stack([targets, targets], axis=1), np.ones(3), np.stack([wild * 0, wild], axis=1))
    values = [model.values(np.eye(3), model.mean[None])[0][2] for model in (sure, unsure)]
    assert abs(values[1] - 5.0) < abs(values[0] - 5.0)
    assert (sure.mean == fit(rows, targets, np.ones(3)).mean).all()


def test_targets_that_are_all_alike_are_no_error() -> None:
    model = fit(ROWS, np.full(60, 2.0), SPREADS)
    assert model.values(ROWS, model.mean[None]) == pytest.approx(np.full((1, 60), 2.0), abs=1e-6)
