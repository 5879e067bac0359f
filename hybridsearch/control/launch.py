"""Starting and resuming a search: everything between a settings file and a running controller."""

import json
import signal
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from types import FrameType

from hybridsearch import __version__, yaml_files
from hybridsearch.control import budget, replay
from hybridsearch.control.candidates import describe, require_feasible
from hybridsearch.control.ledger import Ledger
from hybridsearch.control.loop import Controller, Plan, drain_flag
from hybridsearch.control.places import Places
from hybridsearch.control.simulated import Clock
from hybridsearch.control.snapshot import View
from hybridsearch.control.standing import Standing, standing
from hybridsearch.db.store import Store, StudyRecord, evaluation_digest
from hybridsearch.errors import HybridSearchError, InvalidSetting, StoreUnavailable
from hybridsearch.export import native
from hybridsearch.reporting.mlflow_reporter import open_reporter
from hybridsearch.reporting.points import Point
from hybridsearch.reporting.reporter import Ending, Reporter
from hybridsearch.search.samplers import require
from hybridsearch.search_spaces import catalog
from hybridsearch.search_spaces.controls import controls
from hybridsearch.settings import BudgetSettings, SearchSettings, WorkerSettings
from hybridsearch.trial import TrialState

LIBRARIES = ("torch", "triton", "ray", "optuna", "mlflow", "sqlalchemy")

Execute = Callable[[Controller, WorkerSettings], None]
"""Runs a controller's jobs to the end: `ray_tune.run` or `in_process.run` with what else they need."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """How a search ended, for now."""

    study: str
    ending: Ending
    standing: Standing
    counts: Mapping[TrialState, int]


def plan(settings: SearchSettings, space: yaml_files.Document, places: Places) -> Plan:
    """The plan of a search, from its settings and its space as read; a replay takes space and evaluation of its table.

    Raises:
        InvalidFile: the space breaks its schema, or the table cannot be read.
        InvalidSetting: the table lacks an objective, or the sampler an extra that is not installed.
        Infeasible: no architecture meets its constraints.
    """
    require(settings.sampler)
    if settings.replay is not None:
        return replay.plan(settings, replay.table(settings.replay), places)
    built = catalog.load(space)
    context = settings.evaluation.throughput.contexts[-1]
    require_feasible(built, settings.constraint_list, context, settings.seed)
    return Plan(settings=settings, space=built, source=space.data, controls=controls(built), places=places)


def start(plan: Plan, execute: Execute, view: View, *, machine: str, clock: Clock | None = None) -> Outcome:
    """Create the study and run it.

    Args:
        plan: with a study name that is not taken.
        execute: the executor.
        view: the screen.
        machine: what identifies the machine for the result cache; empty keeps this study out of it.
        clock: of a search on simulated time; none takes real time.

    Raises:
        InvalidSetting: the study exists.
        HybridSearchError: whatever stops a search; what was recorded stays.
    """
    settings = plan.settings
    if settings.study is None:
        raise InvalidSetting("the search has no name; give `study: NAME` or --study NAME")
    with Store.open(plan.places.store, clock=clock.stamp if clock else time.time) as store:
        store.create_study(
            settings.study,
            settings.model_dump_json(),
            seed=settings.seed,
            space_json=json.dumps(plan.source),
            versions=versions(),
            evaluation_digest=evaluation_digest(settings.evaluation, machine) if machine else "",
        )
        return _run(plan, store, settings.study, execute, view, clock)


def resume(
    study: str,
    places: Places,
    execute: Execute,
    view: View,
    change: Callable[[SearchSettings], SearchSettings],
    *,
    clock: Clock | None = None,
) -> Outcome:
    """Go on with a study: interrupted trials first, from their checkpoints, then the rest of its budget.

    Args:
        study: name.
        places: as the study was started with.
        execute: the executor.
        view: the screen.
        change: gives the settings to go on with, e.g. a larger budget; what numbers mean may not change.
        clock: of a search on simulated time, which goes on where it stopped.

    Raises:
        UnknownStudy: no such study.
        StoreUnavailable: another process runs it.
    """
    with Store.open(places.store, create=False, clock=clock.stamp if clock else time.time) as store:
        record = store.study(study)
        if clock is not None:
            clock.epoch = record.created
            clock.now = (
                max((e.time for e in store.events(study, limit=1, newest=True)), default=clock.epoch) - clock.epoch
            )
        before = recorded_settings(record)
        settings = change(before)
        space = yaml_files.Document.of(json.loads(record.space_json), f"space of study {study}")
        renewed = plan(settings, space, places)
        return _run(renewed, store, study, execute, view, clock, before=before)


def recorded_settings(record: StudyRecord) -> SearchSettings:
    """The settings that a study was started with."""
    return SearchSettings.model_validate_json(record.settings_json)


def with_limits(budget: BudgetSettings | None, workers: int | None) -> Callable[[SearchSettings], SearchSettings]:
    """A change for `resume`: another budget (for the whole search, what is done included), other workers."""

    def change(settings: SearchSettings) -> SearchSettings:
        renewed = settings if budget is None else settings.model_copy(update={"budget": budget})
        if workers is None:
            return renewed
        return renewed.model_copy(update={"workers": renewed.workers.model_copy(update={"count": workers})})

    return change


def _run(
    plan: Plan,
    store: Store,
    study: str,
    execute: Execute,
    view: View,
    clock: Clock | None,
    *,
    before: SearchSettings | None = None,
) -> Outcome:
    store.claim(study)
    try:
        if before is not None:
            more = budget.is_larger(plan.settings.budget, before.budget)
            store.renew(study, plan.settings.model_dump_json(), reopen=more)
        if clock is not None:  # what a kill kept from the last heartbeat
            store.heartbeat(study, clock.now - store.study(study).elapsed)
        settings_yaml = _write_settings(plan, study)
        reporter = open_reporter(plan.places.tracking)
        try:
            ledger = Ledger(store, study, plan.settings, reporter, view.event)
            _tell_start(reporter, plan, ledger, settings_yaml, resumed=before is not None)
            controller = Controller(plan, ledger, view, clock or time.monotonic)
            with _interruptible(controller):
                execute(controller, plan.settings.workers)
            return _finish(plan, ledger, controller, reporter)
        finally:
            reporter.close()
    finally:
        _release(store, study)


def _finish(plan: Plan, ledger: Ledger, controller: Controller, reporter: Reporter) -> Outcome:
    controller.close()
    ending: Ending = "interrupted" if ledger.unfinished or controller.draining else "finished"
    ledger.note("end", ending)
    final = standing(plan.settings, ledger.finished)
    exports = {f"{p.name}.yaml": export_text(plan.settings, p, ledger.study) for p in final.front}
    reporter.study_ended(ending, final.points, exports)
    return Outcome(study=ledger.study, ending=ending, standing=final, counts=ledger.counts())


def _write_settings(plan: Plan, study: str) -> str:
    """Write the resolved settings beside the run, and clear a drain that an earlier run was asked for."""
    text = yaml_files.dump({**plan.settings.model_dump(mode="json"), "space": dict(plan.source)})
    folder = plan.places.study(study)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "settings.yaml").write_text(text, encoding="utf-8")
        drain_flag(plan.places, study).unlink(missing_ok=True)
    except OSError as error:
        raise StoreUnavailable(f"folder {folder} cannot be written: {error.strerror}") from None
    return text


def _tell_start(reporter: Reporter, plan: Plan, ledger: Ledger, settings_yaml: str, *, resumed: bool) -> None:
    context = plan.settings.evaluation.throughput.contexts[-1]
    named = {name: describe(architecture, context) for name, architecture in plan.controls.items()}
    reporter.study_started(ledger.study, settings_yaml, plan.settings.objective_list, named, resumed=resumed)
    if resumed:
        ledger.retell()
        ledger.note("resume", f"{ledger.next_number} trials are recorded, {len(ledger.unfinished)} of them go on")


def _release(store: Store, study: str) -> None:
    try:
        store.release(study)
    except HybridSearchError:
        return  # the database is the reason why the search ends; the claim lapses by itself


@contextmanager
def _interruptible(controller: Controller) -> Iterator[None]:
    """First Ctrl-C (or SIGTERM) drains, the second stops at once."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def handle(signum: int, frame: FrameType | None) -> None:
        if controller.draining:
            raise KeyboardInterrupt
        controller.drain()

    before = {number: signal.signal(number, handle) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def versions() -> dict[str, str]:
    """This program's version and its libraries'."""
    found = {"hybridsearch": __version__}
    for library in LIBRARIES:
        try:
            found[library] = version(library)
        except PackageNotFoundError:
            continue
    return found


def export_text(
    settings: SearchSettings, point: Point, study: str, *, made_by: Mapping[str, str] | None = None, device: str = ""
) -> str:
    """A point's architecture as the YAML that `hybridsearch train` reads, counted as the study counted it.

    Args:
        settings: of the study.
        point: finished trial.
        study: name.
        made_by: versions of the program and libraries of the search; none means those that run now.
        device: machine that the numbers were measured on, in words.
    """
    evaluation = settings.evaluation
    return native.text_of_point(
        point,
        study=study,
        vocabulary=evaluation.task.vocabulary,
        context=evaluation.throughput.contexts[-1],
        settings_digest=evaluation_digest(evaluation, ""),
        versions=versions() if made_by is None else made_by,
        device=device,
    )


def free_name(store: Store, stem: str) -> str:
    """`stem`, or the first of `stem-2`, `stem-3`, ... that no study has."""
    taken = {study.name for study in store.studies()}
    number = 2
    name = stem
    while name in taken:
        name, number = f"{stem}-{number}", number + 1
    return name
