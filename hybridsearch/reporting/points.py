"""A trial as figures, tables and exports show it: every metric with its spread, and whether it is on the front."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from hybridsearch.trial import Candidate, Measurement, Report

LEVEL = re.compile(r"^recall/(\d+)x(\d+)$")
"""Metric of one difficulty: tokens of a sequence, key-value pairs in it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Spread:
    """A number with the range it was seen in."""

    value: float
    low: float
    """Smallest of the seeds, or first quartile of the timed repeats."""
    high: float
    """Largest of the seeds, or third quartile of the timed repeats."""
    count: int = 1
    """Seeds or repeats behind the range; with 1 the range is the value itself."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Point:
    """One finished trial, as drawn over the objectives."""

    trial: int
    hash: str
    name: str
    canonical: str
    """Canonical JSON of the architecture."""
    parameters: int
    state_bytes: int
    flops_per_token: int
    metrics: Mapping[str, Spread]
    on_front: bool
    control: str | None = None
    """Name of the control, e.g. `full`; none for a candidate of the search."""
    feasible: bool = True
    """Whether every constraint holds; points that break one are never on the front."""

    @property
    def label(self) -> str:
        """The control's name, or `#` and the trial's number."""
        return self.control or f"#{self.trial}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Progress:
    """The front's hypervolume after so many finished trials."""

    trials: int
    seconds: float
    """Search time until then, summed over resumes."""
    hypervolume: float


def spreads(reports: Sequence[Report]) -> dict[str, Spread]:
    """Every metric of a trial's reports with its spread; a later report overrides an earlier one.

    Throughput is measured once, at the first rung, unless an architecture routes tokens: hence the merging.
    """
    metrics: dict[str, Spread] = {}
    for report in reports:
        for name, value in report.metrics.items():
            metrics[name] = _over_seeds(value, report.replicates.get(name, ()))
        metrics.update({m.key: _over_repeats(m) for m in report.measurements})
        for phase in ("prefill", "decode"):
            largest = max(
                (m for m in report.measurements if m.phase == phase), key=lambda m: (m.context, m.batch), default=None
            )
            if largest is not None:
                metrics[f"{phase}_tokens_per_second"] = _over_repeats(largest)
    return metrics


def point(
    number: int,
    candidate: Candidate,
    reports: Sequence[Report],
    *,
    on_front: bool,
    control: str | None = None,
    feasible: bool = True,
) -> Point:
    """The point of a trial, from its candidate and all of its reports, first rung first."""
    return Point(
        trial=number,
        hash=candidate.hash,
        name=candidate.name,
        canonical=candidate.canonical,
        parameters=candidate.parameters,
        state_bytes=candidate.state_bytes,
        flops_per_token=candidate.flops_per_token,
        metrics=spreads(reports),
        on_front=on_front,
        control=control,
        feasible=feasible,
    )


def levels(metrics: Mapping[str, Spread]) -> list[tuple[int, int, Spread]]:
    """The difficulty ladder of a trial as (length, pairs, recall), easiest first: fewer pairs, then shorter."""
    found = [(int(m[1]), int(m[2]), spread) for name, spread in metrics.items() if (m := LEVEL.match(name))]
    return sorted(found, key=lambda level: (level[1], level[0]))


def _over_seeds(value: float, replicates: Sequence[float]) -> Spread:
    if not replicates:
        return Spread(value=value, low=value, high=value)
    return Spread(value=value, low=min(value, *replicates), high=max(value, *replicates), count=len(replicates))


def _over_repeats(measurement: Measurement) -> Spread:
    return Spread(
        value=measurement.tokens_per_second, low=measurement.low, high=measurement.high, count=measurement.repeats
    )
