"""Throughput foretold from what the study has measured, to turn down candidates before they are trained."""

from collections.abc import Iterable, Sequence

from hybridsearch.control.ledger import Ledger
from hybridsearch.db.records import TrialRecord
from hybridsearch.errors import FailureReason
from hybridsearch.objectives import Constraint
from hybridsearch.search.throughput import Throughput, learn
from hybridsearch.spec.architecture import Architecture
from hybridsearch.spec.canonical import parse

WORD = "tokens_per_second"
"""In the name of every metric that is a throughput."""
LATEST = 200
"""Measured trials that a model is fitted to."""
STALE = 10
"""Further trials after which it is fitted again."""


class Forecast:
    """Models of the throughputs that a study's constraints limit, renewed as trials come in.

    Args:
        constraints: of the study.
        largest_error: that nine of ten held-out architectures must keep for a model to be believed; 0 believes none.
    """

    def __init__(self, constraints: Sequence[Constraint], largest_error: float) -> None:
        self._constraints = [c for c in constraints if WORD in c.metric] if largest_error > 0 else []
        self._largest_error = largest_error
        self._models: dict[str, Throughput | None] = {}
        self._fitted_at = -STALE

    def screen(self, architecture: Architecture, ledger: Ledger) -> str | None:
        """The throughput constraint that the architecture would break by more than the model's error, or none."""
        if not self._constraints:
            return None
        self._renew(ledger)
        for constraint in self._constraints:
            model = self._models.get(constraint.metric)
            told = model.tokens_per_second(architecture) if model is not None else None
            if model is None or told is None or model.error.most > self._largest_error:
                continue
            error = model.error.most
            # Whatever the truth within the error, the limit is broken.
            nearest = [{constraint.metric: told * (1 - error)}, {constraint.metric: told * (1 + error)}]
            if all(constraint.violation(metrics) > 0 for metrics in nearest):
                said = constraint.explain({constraint.metric: told})
                return f"{said} as foretold (nine of ten held-out errors are within {error:.1%})"
        return None

    def _renew(self, ledger: Ledger) -> None:
        if ledger.next_number - self._fitted_at >= STALE:
            self._fitted_at = ledger.next_number
            self._models = {c.metric: model_of(ledger.latest(), c.metric) for c in self._constraints}


def model_of(newest_first: Iterable[TrialRecord], metric: str) -> Throughput | None:
    """The model of one metric from the latest trials that measured it; none if they are too few."""
    measured: dict[str, float] = {}
    for trial in newest_first:
        found = next((r.metrics[metric] for r in reversed(trial.reports) if r.metrics.get(metric, 0.0) > 0), None)
        if found is not None and trial.reason is not FailureReason.NOT_A_NUMBER:
            measured.setdefault(trial.candidate.canonical, found)
        if len(measured) == LATEST:
            break
    return learn([parse(text) for text in measured], list(measured.values()))
