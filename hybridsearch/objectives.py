"""What a search improves, and what it must respect: names, directions, units, limits, and the score of a trial.

Scores are stored in the user's direction; `Score.minimised` turns all of them the same way for `hybridsearch.pareto`.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import sqrt
from typing import Literal

Direction = Literal["maximize", "minimize"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Objective:
    """One axis of the front."""

    name: str
    """Metric that the front is drawn over."""
    direction: Direction
    unit: str
    rung_name: str
    """Metric that early stopping ranks by below the last rung."""
    rung_direction: Direction
    reference: float
    """Worst value that still counts for the hypervolume."""


OBJECTIVES: dict[str, Objective] = {
    objective.name: objective
    for objective in (
        # MQAR accuracy is a step in training time: early rungs are told apart by the loss at answer positions.
        Objective(name="recall", direction="maximize", unit="fraction of answers", reference=0.0,
                  rung_name="answer_loss", rung_direction="minimize"),
        Objective(name="answer_loss", direction="minimize", unit="nats per answer", reference=12.0,
                  rung_name="answer_loss", rung_direction="minimize"),
        Objective(name="decode_tokens_per_second", direction="maximize", unit="tokens/s", reference=0.0,
                  rung_name="decode_tokens_per_second", rung_direction="maximize"),
        Objective(name="prefill_tokens_per_second", direction="maximize", unit="tokens/s", reference=0.0,
                  rung_name="prefill_tokens_per_second", rung_direction="maximize"),
        Objective(name="cache_bytes", direction="minimize", unit="bytes per sequence", reference=float(2**40),
                  rung_name="cache_bytes", rung_direction="minimize"),
    )
}  # fmt: skip


COUNTED = ("parameters", "state_bytes", "flops_per_token", "full_layers")
"""Metrics that are known before any training."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Constraint:
    """A limit on one metric, checked before training where the metric can be counted."""

    metric: str
    """`parameters`, `state_bytes`, `flops_per_token`, `full_layers`, or any metric of a report."""
    minimum: float | None = None
    maximum: float | None = None

    def violation(self, metrics: Mapping[str, float]) -> float:
        """How far the metric is outside its limits, relative to the limit; 0 when it is inside or not known yet."""
        value = metrics.get(self.metric)
        if value is None:
            return 0.0
        below = (self.minimum - value) / max(abs(self.minimum), 1.0) if self.minimum is not None else 0.0
        above = (value - self.maximum) / max(abs(self.maximum), 1.0) if self.maximum is not None else 0.0
        return max(below, above, 0.0)

    def explain(self, metrics: Mapping[str, float]) -> str:
        """The broken limit in words, e.g. `state_bytes 81920 is above 65536`."""
        value = metrics[self.metric]
        if self.maximum is not None and value > self.maximum:
            return f"{self.metric} {value:g} is above {self.maximum:g}"
        return f"{self.metric} {value:g} is below {self.minimum:g}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Score:
    """Objective values of one trial at one rung, in the order of the study's objectives."""

    values: tuple[float, ...]
    directions: tuple[Direction, ...]
    violation: float = 0.0
    """Sum of the constraints' violations; 0 is feasible."""
    errors: tuple[float, ...] = ()
    """Standard error of each value over its seeds; empty where there is one seed, which says nothing of its error."""

    @property
    def errors_of_values(self) -> tuple[float, ...]:
        """One error for each value, 0 where none is known."""
        return self.errors or (0.0,) * len(self.values)

    @property
    def minimised(self) -> tuple[float, ...]:
        """The values with maximised ones negated."""
        return tuple(-v if d == "maximize" else v for v, d in zip(self.values, self.directions, strict=True))


def score(
    objectives: Sequence[Objective],
    constraints: Sequence[Constraint],
    metrics: Mapping[str, float],
    *,
    final: bool,
    replicates: Mapping[str, Sequence[float]] | None = None,
) -> Score:
    """Read the score of a report's metrics; below the last rung (`final` false) by the objectives' rung metrics.

    Args:
        objectives: of the study.
        constraints: of the study.
        metrics: means over the seeds.
        final: whether this is the last rung.
        replicates: per metric, one value for each seed.

    Raises:
        KeyError: a metric of an objective is missing.
    """
    names = [(o.name, o.direction) if final else (o.rung_name, o.rung_direction) for o in objectives]
    return Score(
        values=tuple(metrics[name] for name, _ in names),
        directions=tuple(direction for _, direction in names),
        violation=sum(constraint.violation(metrics) for constraint in constraints),
        errors=_errors([(replicates or {}).get(name, ()) for name, _ in names]),
    )


def _errors(replicates: Sequence[Sequence[float]]) -> tuple[float, ...]:
    if all(len(values) < 2 for values in replicates):
        return ()
    return tuple(_standard_error(values) if len(values) > 1 else 0.0 for values in replicates)


def _standard_error(values: Sequence[float]) -> float:
    """Of the mean of the values. (`statistics.stdev` is exact to the last bit, and takes 40 times as long.)"""
    mean = sum(values) / len(values)
    return sqrt(sum((value - mean) ** 2 for value in values) / (len(values) - 1) / len(values))


def reference_point(objectives: Sequence[Objective]) -> tuple[float, ...]:
    """The objectives' references turned as `Score.minimised` turns values: where the hypervolume of a study ends."""
    return tuple(-o.reference if o.direction == "maximize" else o.reference for o in objectives)
