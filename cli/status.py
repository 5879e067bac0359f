"""`hybridsearch status`: all studies, or one of them. Reads the store alone, and starts fast."""

import time
from collections import Counter
from collections.abc import Sequence
from datetime import datetime
from typing import TYPE_CHECKING, Annotated, Any

import typer

from hybridsearch.cli import session, show
from hybridsearch.cli.show import Column, Format, FormatOption

if TYPE_CHECKING:
    from hybridsearch.control.standing import Outline
    from hybridsearch.db.store import EventRecord, Store, StudyRecord, Tally, TrialRecord
    from hybridsearch.settings import SearchSettings

EXAMPLES = show.examples(
    "hybridsearch status",
    "hybridsearch status quickstart",
    "hybridsearch status quickstart --events 50",
    "hybridsearch status quickstart --throughput",
    "hybridsearch status quickstart --format json",
)
SILENT_SECONDS = 30.0
"""A search that was silent for so long is not called running; it gives a sign of life every 5 s."""
STUDY_COLUMNS = (
    Column("study", "study"),
    Column("state", "state"),
    Column("trials", "trials", right=True),
    Column("finished", "finished", right=True),
    Column("stopped", "stopped", right=True),
    Column("failed", "failed", right=True),
    Column("elapsed_seconds", "searched", show.duration, right=True),
    Column("created", "created"),
)
EVENT_COLUMNS = (
    Column("time", "time", lambda text: text[11:]),
    Column("trial", "trial", lambda number: f"#{number}", right=True),
    Column("event", "event"),
    Column("reason", "reason"),
)
TOO_FEW = "too few trials are measured for a throughput model"
THROUGHPUT_COLUMNS = (
    Column("metric", "tokens/s of phase/context x batch"),
    Column("architectures", "held out", right=True),
    Column("terms", "terms", right=True),
    Column("median_error", "median error", lambda share: f"{share:.1%}", right=True),
    Column("error_of_nine_in_ten", "nine of ten within", lambda share: f"{share:.1%}", right=True),
)
RUNNING_COLUMNS = (
    Column("trial", "running", lambda number: f"#{number}", right=True),
    Column("rung", "to rung", right=True),
    Column("name", "architecture"),
)


def status(
    context: typer.Context,
    study: Annotated[str | None, typer.Argument(help="Name of a study; none lists all.")] = None,
    events: Annotated[int, typer.Option(min=0, help="Newest events to show.")] = 8,
    throughput: Annotated[
        bool, typer.Option("--throughput", help="Fit the additive throughput model, and show its held-out error.")
    ] = False,
    form: FormatOption = Format.TABLE,
) -> None:
    """List the studies, or show how one of them stands. As csv, the trials of the study are listed."""
    with session.of(context).open_store() as store:
        if study is None:
            rows = [_study_row(store, record) for record in store.studies()]
            show.listing(rows, STUDY_COLUMNS, form, empty="no study yet; begin with `hybridsearch search quickstart`")
            return
        record = store.study(study)
        if throughput:
            show.listing(_throughput_rows(store, study), THROUGHPUT_COLUMNS, form, empty=TOO_FEW)
            return
        if form is Format.CSV:
            show.listing([_trial_row(trial) for trial in store.trials(study)], [Column("trial", "trial")], form)
            return
        newest = store.events(study, limit=events, newest=True) if events else []
        _one(store, record, [_event_row(event) for event in newest], form)


def _throughput_rows(store: "Store", study: str) -> list[dict[str, Any]]:
    """How well seconds a token add up over layers, for every shape that the study measures."""
    from hybridsearch.control.forecast import WORD, model_of

    trials = store.trials(study)
    metrics = dict.fromkeys(m for t in trials for r in t.reports for m in r.metrics if WORD in m and "/" in m)
    models = {metric: model_of(reversed(trials), metric) for metric in metrics}
    return [
        {
            "metric": metric,
            "architectures": model.error.architectures,
            "terms": len(model.seconds),
            "median_error": model.error.median,
            "error_of_nine_in_ten": model.error.most,
        }
        for metric, model in models.items()
        if model is not None
    ]


def _one(store: "Store", record: "StudyRecord", events: list[dict[str, Any]], form: Format) -> None:
    from hybridsearch.control.standing import outline
    from hybridsearch.settings import SearchSettings
    from hybridsearch.trial import TrialState

    settings = SearchSettings.model_validate_json(record.settings_json)
    stands = outline(settings, store, record.name)
    tally = store.tally(record.name)
    labels: Counter[str] = Counter()
    for alike in tally:
        labels[f"{alike.state}: {alike.reason}" if alike.reason else alike.state.value] += alike.count
    running = _running_rows(store.trials(record.name, {TrialState.RUNNING}))
    facts: dict[str, Any] = {
        "study": record.name,
        "state": _state(record, sum(alike.count for alike in tally if not alike.state.final)),
        "created": _when(record.created),
        "sampler": f"{settings.sampler}, seed {settings.seed}",
        "budget": _budget(record, settings, tally),
        "counts": dict(sorted(labels.items())),
        "hypervolume": stands.hypervolume,
    }
    if form is Format.TABLE:
        _show(facts, settings, stands, running, events)
        return
    facts |= {
        "elapsed_seconds": record.elapsed,
        "running": running,
        "front": show.point_rows(stands.front, settings.objective_list),
        "events": events,
        "trials": [_trial_row(trial) for trial in store.trials(record.name)],
    }
    show.as_json(facts)


def _show(
    facts: dict[str, Any],
    settings: "SearchSettings",
    stands: "Outline",
    running: list[dict[str, Any]],
    events: list[dict[str, Any]],
) -> None:
    counts = facts["counts"]
    facts = {**facts, "trials": ", ".join(f"{count} {label}" for label, count in counts.items()) or "none yet"}
    facts["hypervolume"] = show.number(facts["hypervolume"])
    order = ("study", "state", "created", "sampler", "budget", "trials", "hypervolume")
    show.pairs([(name, str(facts[name])) for name in order])
    rows = show.point_rows(stands.front, settings.objective_list)
    for listed, columns in (
        (running, RUNNING_COLUMNS),
        (rows, show.point_columns(settings.objective_list)),
        (events, EVENT_COLUMNS),
    ):
        if listed:
            show.line()
            show.listing(listed, columns, Format.TABLE)


def _study_row(store: "Store", record: "StudyRecord") -> dict[str, Any]:
    counts = store.counts(record.name)
    return {
        "study": record.name,
        "state": _state(record, sum(count for state, count in counts.items() if not state.final)),
        "trials": sum(counts.values()),
        **{state.value: count for state, count in counts.items()},
        "elapsed_seconds": round(record.elapsed, 1),
        "created": _when(record.created),
    }


def _state(record: "StudyRecord", unfinished: int) -> str:
    if record.owner and time.time() - (record.heartbeat or 0.0) < SILENT_SECONDS:
        return f"running ({record.owner})"
    return f"{unfinished} trials to resume" if unfinished else "idle"


def _budget(record: "StudyRecord", settings: "SearchSettings", tally: "Sequence[Tally]") -> str:
    from hybridsearch.trial import TrialState

    counted = sum(a.count for a in tally if not a.control and a.state is not TrialState.SCREENED)
    budget = settings.budget
    parts = [f"{counted} of {budget.trials} trials" if budget.trials else f"{counted} trials"]
    minutes = record.elapsed / 60
    parts.append(f"{minutes:.1f} of {budget.minutes:g} minutes" if budget.minutes else f"{minutes:.1f} minutes")
    return ", ".join(parts)


def _running_rows(running: "Sequence[TrialRecord]") -> list[dict[str, Any]]:
    return [
        {"trial": t.number, "rung": len(t.reports), "name": t.candidate.name, "control": t.control} for t in running
    ]


def _trial_row(trial: "TrialRecord") -> dict[str, Any]:
    metrics = {name: value for report in trial.reports for name, value in report.metrics.items()}
    return {
        "trial": trial.number,
        "state": trial.state.value,
        "failure": trial.reason.value if trial.reason else None,
        "message": trial.message,
        "control": trial.control,
        "sampler": trial.sampler,
        "parents": list(trial.parents),
        "name": trial.candidate.name,
        "hash": trial.candidate.hash,
        "parameters": trial.candidate.parameters,
        "state_bytes": trial.candidate.state_bytes,
        "seconds": round(trial.seconds, 3),
        "steps": trial.reports[-1].steps if trial.reports else 0,
        **metrics,
    }


def _event_row(event: "EventRecord") -> dict[str, Any]:
    return {"time": _when(event.time), "trial": event.trial, "event": event.kind, "reason": event.message}


def _when(seconds: float) -> str:
    """Local time, to the second."""
    return datetime.fromtimestamp(seconds).isoformat(sep=" ", timespec="seconds")
