"""A table in memory: what is known of every candidate at every rung and seed, and where the numbers come from."""

import math
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

from hybridsearch.errors import FailureReason, InvalidSetting
from hybridsearch.objectives import OBJECTIVES, Objective, reference_point, score
from hybridsearch.pareto.front import Front
from hybridsearch.settings import EvaluationSettings
from hybridsearch.trial import Candidate, Report


@dataclass(frozen=True, slots=True, kw_only=True)
class About:
    """Where a table comes from, and what its numbers mean."""

    space: Mapping[str, Any]
    """The space as it was written; the candidates are some or all of its architectures."""
    evaluation: EvaluationSettings
    """Task, training, rungs and shapes of throughput."""
    objectives: tuple[str, ...]
    machines: tuple[str, ...]
    """Every machine that gave numbers, as reports describe it."""
    versions: Mapping[str, str]
    """Program and libraries."""
    commit: str
    """Of the program that built the table; empty outside of a checkout."""
    sources: tuple[str, ...]
    """Studies, or files of records."""
    seconds: str = "wall-clock work of a trial between two rungs"
    """What the seconds of a run are."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Run:
    """One training of one candidate."""

    hash: str
    seed: int
    reports: tuple[Report, ...]
    """By rung from 0, without gaps; the trial number in them means nothing."""
    failure: FailureReason | None = None
    message: str = ""
    """What was said of the failure."""

    @property
    def seconds(self) -> float:
        """Work of all reports together."""
        return math.fsum(report.seconds for report in self.reports)


@dataclass(frozen=True, kw_only=True)
class Table:
    """Candidates and their runs.

    Raises:
        InvalidSetting: a run is of no candidate, is there twice, or reports rungs that the evaluation has not.
    """

    about: About
    candidates: Mapping[str, Candidate]
    """By hash."""
    runs: Sequence[Run]
    _by_hash: Mapping[str, Sequence[Run]] = field(init=False, repr=False)

    def __post_init__(self) -> None:
        ladder = self.about.evaluation.rungs.ladder
        grouped: defaultdict[str, dict[int, Run]] = defaultdict(dict)
        for run in self.runs:
            name = f"run {run.hash[:8]} of seed {run.seed}"
            if run.hash not in self.candidates:
                raise InvalidSetting(f"{name} is of no candidate of the table")
            if run.seed in grouped[run.hash]:
                raise InvalidSetting(f"{name} is in the table twice")
            for report, fidelity in zip(run.reports, ladder, strict=False):
                if (report.rung, report.steps) != (fidelity.rung, fidelity.steps):
                    found = f"rung {report.rung} at {report.steps} steps"
                    raise InvalidSetting(f"{name} has {found}, expected rung {fidelity.rung} at {fidelity.steps}")
            if len(run.reports) > len(ladder):
                raise InvalidSetting(f"{name} has {len(run.reports)} rungs, the evaluation {len(ladder)}")
            grouped[run.hash][run.seed] = run
        known = {digest: [runs[seed] for seed in sorted(runs)] for digest, runs in grouped.items()}
        object.__setattr__(self, "_by_hash", known)

    def of(self, digest: str) -> Sequence[Run]:
        """The runs of a candidate, by seed."""
        return self._by_hash.get(digest, ())

    def complete(self, run: Run) -> bool:
        """Whether a run tells how it ended: at the last rung, or by a failure."""
        return run.failure is not None or len(run.reports) == len(self.about.evaluation.rungs.ladder)

    @cached_property
    def playable(self) -> Mapping[str, Sequence[Run]]:
        """By hash, the complete runs of every candidate that has some: what a search may ask for."""
        found = {digest: [run for run in self.of(digest) if self.complete(run)] for digest in self.candidates}
        return {digest: runs for digest, runs in found.items() if runs}

    @property
    def objectives(self) -> tuple[Objective, ...]:
        """The objectives as records."""
        return tuple(OBJECTIVES[name] for name in self.about.objectives)

    def finals(self) -> dict[str, dict[str, float]]:
        """By hash, the metrics at the last rung as means over the seeds, of candidates whose every run came so far."""
        last = len(self.about.evaluation.rungs.ladder)
        return {
            digest: means([run.reports[-1].metrics for run in runs])
            for digest, runs in self.playable.items()
            if all(len(run.reports) == last and run.failure is None for run in runs)
        }

    def front(self) -> Front[str]:
        """The best front: candidates by their mean metrics at the last rung; those that lack an objective left out."""
        front: Front[str] = Front(reference_point(self.objectives))
        for digest, metrics in self.finals().items():
            if all(objective.name in metrics for objective in self.objectives):
                front.add(score(self.objectives, (), metrics, final=True).minimised, digest)
        return front


def means(rows: Sequence[Mapping[str, float]]) -> dict[str, float]:
    """The mean of every metric that all rows have."""
    shared = [name for name in rows[0] if all(name in row for row in rows)]
    return {name: math.fsum(row[name] for row in rows) / len(rows) for name in shared}


def merged(tables: Sequence[Table]) -> Table:
    """Tables of one space and evaluation as one.

    Raises:
        InvalidSetting: they differ in what their numbers mean, or share a run.
    """
    first = tables[0].about
    for table in tables[1:]:
        for key in ("space", "evaluation", "seconds"):
            if getattr(table.about, key) != getattr(first, key):
                names = f"{', '.join(first.sources)} and {', '.join(table.about.sources)}"
                raise InvalidSetting(f"{names} differ in their {key}; one table holds numbers of one meaning")
    abouts = [table.about for table in tables]
    about = About(
        space=first.space,
        evaluation=first.evaluation,
        objectives=_distinct(name for about in abouts for name in about.objectives),
        machines=_distinct(name for about in abouts for name in about.machines),
        versions={key: value for about in abouts for key, value in about.versions.items()},
        commit=first.commit,
        sources=_distinct(name for about in abouts for name in about.sources),
        seconds=first.seconds,
    )
    candidates = {digest: candidate for table in tables for digest, candidate in table.candidates.items()}
    return Table(about=about, candidates=candidates, runs=tuple(run for table in tables for run in table.runs))


def _distinct(names: Iterable[str]) -> tuple[str, ...]:
    return tuple(dict.fromkeys(names))
