"""The reporter that mirrors a search to MLflow: a parent run a study, a nested run a trial, rungs as metric steps.

The methods only queue; one thread writes. A resumed search continues the runs it finds, and events that are told
again for what is recorded already change nothing, so a controller may tell all trials of its store once more.
"""

import json
import logging
import time
from collections.abc import Callable, Collection, Mapping, Sequence
from functools import partial
from typing import TYPE_CHECKING

from hybridsearch.errors import HybridSearchError
from hybridsearch.objectives import Objective
from hybridsearch.reporting import rows
from hybridsearch.reporting.background import Background, Patience
from hybridsearch.reporting.mlflow_places import prepare_environment
from hybridsearch.reporting.points import Point, Progress
from hybridsearch.reporting.reporter import Ending, Load, NullReporter, Reporter
from hybridsearch.trial import Candidate, Report, TrialState

if TYPE_CHECKING:
    from hybridsearch.reporting.mlflow_runs import KnownTrial, Status

Warn = Callable[[str], None]
FIGURE_SECONDS = 60.0
"""Shortest time between two drawings of the figures, which take 0.8 s of one core; the end always draws."""
STATUSES: "dict[TrialState, Status]" = {
    TrialState.WAITING: "SCHEDULED",
    TrialState.RUNNING: "RUNNING",
    TrialState.PAUSED: "SCHEDULED",
    TrialState.FINISHED: "FINISHED",
    # Only full training is FINISHED, so that MLflow's status filter gives the comparable trials.
    TrialState.STOPPED: "KILLED",
    TrialState.SCREENED: "KILLED",
    TrialState.FAILED: "FAILED",
}
ENDINGS: "dict[Ending, Status]" = {"finished": "FINISHED", "interrupted": "KILLED", "failed": "FAILED"}


def open_reporter(uri: str | None, *, experiment: str = "hybridsearch", warn: Warn | None = None) -> Reporter:
    """A reporter to MLflow, or one that records nothing if `uri` is none or cannot be used (told through `warn`)."""
    if uri is None:
        return NullReporter()
    try:
        return MlflowReporter(uri, experiment=experiment, warn=warn)
    except HybridSearchError as error:
        (warn or _log)(f"{error}; the search goes on without it")
        return NullReporter()


class MlflowReporter:
    """Mirrors one study.

    The constructor creates and migrates the database and the experiment: make it before any worker starts.

    Args:
        tracking_uri: `sqlite:///` and a path, a server's `http://` address, or another database that MLflow knows.
        experiment: name of the experiment that holds all studies.
        warn: told one line if MLflow fails; default is the log.
        patience: how long an outage is waited for.
        figure_seconds: shortest time between two drawings of the figures.

    Raises:
        StoreUnavailable: the database or server cannot be used.
    """

    def __init__(
        self,
        tracking_uri: str,
        *,
        experiment: str = "hybridsearch",
        warn: Warn | None = None,
        patience: Patience | None = None,
        figure_seconds: float = FIGURE_SECONDS,
    ) -> None:
        prepare_environment()
        from hybridsearch.reporting.mlflow_runs import Runs  # the import takes over a second; `--help` must not wait

        self._runs = Runs(tracking_uri, experiment)
        self._background = Background("mlflow", answers=self._runs.answers, warn=warn or _log, patience=patience)
        self._figure_seconds = figure_seconds
        self._drawn = float("-inf")
        self._study = ""
        self._parent: str | None = None
        self._fresh = True
        self._objectives: tuple[Objective, ...] = ()
        self._trials: dict[int, KnownTrial] = {}
        self._progress: dict[int, Progress] = {}

    def study_started(
        self,
        study: str,
        settings_yaml: str,
        objectives: Sequence[Objective],
        controls: Mapping[str, Candidate],
        *,
        resumed: bool,
    ) -> None:
        """See `Reporter`."""
        self._study, self._objectives = study, tuple(objectives)
        named = {f"control.{name}": candidate.name for name, candidate in controls.items()}
        self._background.submit(partial(self._begin, settings_yaml, named, resumed))

    def trial_started(self, number: int, candidate: Candidate, tags: Mapping[str, str]) -> None:
        """See `Reporter`."""
        self._background.submit(partial(self._start, number, candidate, dict(tags), _now()))

    def trial_reopened(self, number: int) -> None:
        """See `Reporter`."""
        self._background.submit(partial(self._reopen, number))

    def rung(self, number: int, report: Report, decision: str) -> None:
        """See `Reporter`."""
        self._background.submit(partial(self._record, number, report, decision, _now()))

    def trial_ended(self, number: int, state: TrialState, reason: str, *, on_front: bool) -> None:
        """See `Reporter`."""
        self._background.submit(partial(self._end, number, state, reason, on_front, _now()))

    def front_changed(
        self, points: Load, front: Collection[int], hypervolume: float, step: int, seconds: float
    ) -> None:
        """See `Reporter`."""
        progress = Progress(trials=step, seconds=seconds, hypervolume=hypervolume)
        self._background.submit(partial(self._follow_front, points, frozenset(front), progress, _now()))

    def study_ended(self, ending: Ending, points: Sequence[Point], exports: Mapping[str, str]) -> None:
        """See `Reporter`."""
        self._background.submit(partial(self._finish, ending, tuple(points), dict(exports), _now()))

    def close(self) -> None:
        """See `Reporter`."""
        self._background.close()

    def _begin(self, settings_yaml: str, controls: Mapping[str, str], resumed: bool) -> None:
        if self._parent is None:
            known = self._runs.find_study(self._study) if resumed else None
            self._fresh = known is None
            self._parent = known or self._runs.create_study(self._study)
        self._runs.write(self._parent, {"settings.yaml": settings_yaml.encode()})
        if self._fresh:  # parameters cannot be changed in MLflow, and a resumed search may have a larger budget
            self._runs.log(self._parent, parameters={**rows.settings_parameters(settings_yaml), **controls})
            self._runs.log_dataset(self._parent, *rows.task_digest(settings_yaml))
            return
        self._runs.set_status(self._parent, "RUNNING", _now())
        self._trials = self._runs.trials(self._parent)
        seconds = self._runs.history(self._parent, "search_seconds")
        for step, value in self._runs.history(self._parent, "hypervolume").items():
            self._progress[step] = Progress(trials=step, seconds=seconds.get(step, 0.0), hypervolume=value)

    def _start(self, number: int, candidate: Candidate, tags: Mapping[str, str], stamp: int) -> None:
        known = self._trials.get(number)
        continued = known is not None
        if known is None and self._parent is not None:
            name = f"t{number:04d}-{tags.get('control') or candidate.name}"
            known = self._trials[number] = self._runs.create_trial(self._parent, number, name, stamp)
        if known is None or known.ended:
            return
        marks = {"study": self._study, "arch_hash": candidate.hash, "state": TrialState.RUNNING.value, **tags}
        self._runs.log(known.run, parameters=rows.candidate_parameters(candidate), tags=marks)
        self._runs.write(known.run, {"architecture.json": candidate.canonical.encode()})
        if continued:
            self._runs.set_status(known.run, "RUNNING", stamp)

    def _reopen(self, number: int) -> None:
        known = self._trials.get(number)
        if known is not None and known.ended:
            self._runs.set_status(known.run, STATUSES[TrialState.PAUSED], _now())
            known.ended = False

    def _record(self, number: int, report: Report, decision: str, stamp: int) -> None:
        known = self._trials.get(number)
        if known is None or report.rung <= known.rung:
            return
        tags = {f"decision.{report.rung}": decision[: rows.LONGEST], "device": report.device[: rows.LONGEST]}
        tags["rung"] = str(report.rung)
        self._runs.log(known.run, metrics=rows.report_metrics(report), tags=tags, step=report.steps, stamp=stamp)
        known.rung = report.rung

    def _end(self, number: int, state: TrialState, reason: str, on_front: bool, stamp: int) -> None:
        known = self._trials.get(number)
        if known is None or known.ended:
            return
        tags = {"state": state.value, "reason": reason[: rows.LONGEST], "on_front": _yes_no(on_front)}
        self._runs.log(known.run, tags=tags)
        self._runs.set_status(known.run, STATUSES[state], stamp)
        known.ended, known.on_front = state.final, on_front

    def _follow_front(self, points: Load, front: Collection[int], progress: Progress, stamp: int) -> None:
        if self._parent is None:
            return
        if progress.trials not in self._progress:
            metrics = {"hypervolume": progress.hypervolume, "search_seconds": progress.seconds}
            metrics["front_size"] = float(len(front))
            self._runs.log(self._parent, metrics=metrics, step=progress.trials, stamp=stamp)
            self._progress[progress.trials] = progress
        for number, known in self._trials.items():
            if known.on_front != (number in front):
                self._runs.log(known.run, tags={"on_front": _yes_no(number in front)})
                known.on_front = number in front
        if time.monotonic() - self._drawn >= self._figure_seconds:
            self._draw(points())
            self._drawn = time.monotonic()

    def _finish(self, ending: Ending, points: Sequence[Point], exports: Mapping[str, str], stamp: int) -> None:
        if self._parent is None:
            return
        if points:
            self._draw(points)
        if exports:
            self._runs.write(self._parent, {f"best/{name}": text.encode() for name, text in exports.items()})
        self._runs.log(self._parent, tags={"ending": ending})
        self._runs.set_status(self._parent, ENDINGS[ending], stamp)

    def _draw(self, points: Sequence[Point]) -> None:
        from hybridsearch.reporting.plots.files import figure_files  # matplotlib and plotly take 0.8 s to import

        assert self._parent is not None
        progress = [self._progress[step] for step in sorted(self._progress)]
        figures = figure_files(self._study, points, self._objectives, progress)
        table = json.dumps(rows.front_table(points, self._objectives))
        files = {f"pareto/{name}": content for name, content in figures.items()}
        self._runs.write(self._parent, {**files, "pareto/front.json": table.encode()}, tables=["pareto/front.json"])


def _yes_no(value: bool) -> str:
    return "true" if value else "false"


def _now() -> int:
    return int(time.time() * 1000)


def _log(message: str) -> None:
    logging.getLogger("hybridsearch").warning(message)
