"""How a study stands: its points, its front and its hypervolume, from recorded trials alone.

The running controller and the commands that only read the store see a study through the same functions.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from hybridsearch.db.records import TrialRecord
from hybridsearch.db.store import Store
from hybridsearch.objectives import Score, reference_point, score
from hybridsearch.pareto.front import Front
from hybridsearch.reporting.points import Point, Progress, point
from hybridsearch.settings import SearchSettings
from hybridsearch.trial import Report, TrialState


@dataclass(frozen=True, slots=True, kw_only=True)
class Standing:
    """The finished trials of a study and what stands on its front."""

    points: tuple[Point, ...]
    """All finished trials, by number."""
    hypervolume: float
    """What the front dominates, in the product of the objectives' units."""
    progress: tuple[Progress, ...]
    """Hypervolume after each finished trial, in the order in which they finished."""

    @property
    def front(self) -> tuple[Point, ...]:
        """Points on the front, by number."""
        return tuple(p for p in self.points if p.on_front)


@dataclass(frozen=True, slots=True, kw_only=True)
class Outline:
    """The front of a study without its other points: quick to read at any size."""

    finished: int
    """Finished trials."""
    front: tuple[Point, ...]
    """By number."""
    hypervolume: float


def merged(reports: Sequence[Report]) -> dict[str, float]:
    """All metrics of a trial's reports, later ones first: throughput may stand in the first report alone."""
    metrics: dict[str, float] = {}
    for report in reports:
        metrics.update(report.metrics)
    return metrics


def missing(settings: SearchSettings, metrics: Mapping[str, float], *, final: bool) -> str | None:
    """The first objective's metric that is absent or no finite number, in words, or none."""
    for objective in settings.objective_list:
        name = objective.name if final else objective.rung_name
        value = metrics.get(name)
        if value is None or not math.isfinite(value):
            return f"{name} is {'missing' if value is None else value}"
    return None


def score_of(settings: SearchSettings, reports: Sequence[Report], *, final: bool) -> Score:
    """The score of a trial from all its reports so far."""
    replicates = {name: values for report in reports for name, values in report.replicates.items()}
    return score(settings.objective_list, settings.constraint_list, merged(reports), final=final, replicates=replicates)


def empty_front(settings: SearchSettings) -> Front[int]:
    """A front over trial numbers with the study's reference point."""
    return Front[int](reference_point(settings.objective_list))


def outline(settings: SearchSettings, store: Store, study: str) -> Outline:
    """The outline of a study as the store holds it now; its front is that of `standing`."""
    names = dict.fromkeys((*settings.objectives, *(c.metric for c in settings.constraint_list)))
    finals = store.finals(study, tuple(names))
    front = empty_front(settings)
    for trial in finals:
        found = score(settings.objective_list, settings.constraint_list, trial.metrics, final=True)
        if found.violation == 0:
            front.add(found.minimised, trial.number)
    leading = store.some_trials(study, front.keys)
    points = (point(t.number, t.candidate, t.reports, on_front=True, control=t.control) for t in leading)
    return Outline(finished=len(finals), front=tuple(points), hypervolume=front.hypervolume)


def standing(settings: SearchSettings, trials: Sequence[TrialRecord]) -> Standing:
    """The standing of a study from its trials (any states, any order)."""
    finished = [trial for trial in trials if trial.state is TrialState.FINISHED]
    front = empty_front(settings)
    scores: dict[int, Score] = {}
    progress = []
    seconds, begun = 0.0, min((trial.created for trial in finished), default=0.0)
    for count, trial in enumerate(sorted(finished, key=lambda t: (t.ended or 0.0, t.number)), start=1):
        scores[trial.number] = score_of(settings, trial.reports, final=True)
        if scores[trial.number].violation == 0:
            front.add(scores[trial.number].minimised, trial.number)
        seconds = max(seconds, (trial.ended or 0.0) - begun)
        progress.append(Progress(trials=count, seconds=seconds, hypervolume=front.hypervolume))
    leading = front.keys
    points = tuple(
        point(
            trial.number,
            trial.candidate,
            trial.reports,
            on_front=trial.number in leading,
            control=trial.control,
            feasible=scores[trial.number].violation == 0,
        )
        for trial in sorted(finished, key=lambda t: t.number)
    )
    return Standing(points=points, hypervolume=front.hypervolume, progress=tuple(progress))
