"""Studies of a store, files of records, and tables, as one table."""

import json
import subprocess
from collections.abc import Iterator, Sequence
from pathlib import Path

from hybridsearch.control.launch import recorded_settings, versions
from hybridsearch.db.store import Store, TrialRecord
from hybridsearch.errors import InvalidSetting
from hybridsearch.seeds import derive
from hybridsearch.tabular import parquet, records
from hybridsearch.tabular.table import About, Run, Table, merged
from hybridsearch.trial import Report, TrialState

RECORDS, TABLE = ".jsonl", ".parquet"
"""Endings of sources that are files, not studies."""


def build(sources: Sequence[str], store: Store | None) -> Table:
    """The table of all sources together.

    Args:
        sources: names of studies, and paths of files of records and of tables.
        store: where the studies are; may be none if there are none.

    Raises:
        InvalidFile: a file of records or a table cannot be read.
        InvalidSetting: the sources differ in space or evaluation, or nothing was trained in a study.
        UnknownStudy: the store has no study of a name.
    """
    tables = []
    for source in dict.fromkeys(sources):
        if source.endswith(RECORDS):
            # The libraries that trained it stand in the machine's description; those here only wrote the file.
            own = {"hybridsearch": versions()["hybridsearch"]}
            tables.append(records.read(Path(source), own, commit()))
        elif source.endswith(TABLE):
            tables.append(parquet.read(Path(source)))
        elif store is None:
            raise InvalidSetting(f"{source} is a study, but there is no store")
        else:
            tables.append(of_study(store, source))
    return merged(tables)


def of_study(store: Store, study: str) -> Table:
    """The table of a study's trials that were trained in it: those that took over numbers are left out.

    Raises:
        InvalidSetting: there is none, or the study searched a table.
        UnknownStudy: no study of that name.
    """
    record = store.study(study)
    settings = recorded_settings(record)
    if settings.replay is not None:
        raise InvalidSetting(f"study {study} searched {settings.replay} and trained nothing; name that table instead")
    trials = [trial for trial in store.trials(study) if _was_trained(trial)]
    if not trials:
        raise InvalidSetting(
            f"study {study} has no trial that was trained and has ended, so there is nothing to tabulate"
        )
    devices = dict.fromkeys(report.device for trial in trials for report in trial.reports if report.device)
    about = About(
        space=json.loads(record.space_json),
        evaluation=settings.evaluation,
        objectives=settings.objectives,
        machines=tuple(devices),
        versions=record.versions,
        commit=commit(),
        sources=(study,),
    )
    candidates = {trial.candidate.hash: trial.candidate for trial in trials}
    return Table(about=about, candidates=candidates, runs=tuple(run for trial in trials for run in _runs(trial)))


def commit() -> str:
    """The commit of this checkout, `+` behind it if files differ; empty where there is none."""
    folder = Path(__file__).parent
    try:
        described = subprocess.run(
            ["git", "describe", "--always", "--abbrev=12", "--dirty=+"],
            cwd=folder, capture_output=True, text=True, timeout=10, check=True,
        )  # fmt: skip
    except (OSError, subprocess.SubprocessError):
        return ""
    return described.stdout.strip()


def _was_trained(trial: TrialRecord) -> bool:
    if trial.state is TrialState.FAILED:
        return True
    ended = trial.state in (TrialState.FINISHED, TrialState.STOPPED)
    return ended and any(report.seconds > 0 for report in trial.reports)


def _runs(trial: TrialRecord) -> Iterator[Run]:
    """One run a replicate; most trials have one, whose seed is the trial's."""
    count = max((len(values) for report in trial.reports for values in report.replicates.values()), default=1)
    for index in range(max(1, count)):
        yield Run(
            hash=trial.candidate.hash,
            seed=trial.seed if index == 0 else derive(trial.seed, "replicate", index),
            reports=tuple(_replicate(report, index) for report in trial.reports),
            failure=trial.reason,
            message=trial.message if trial.reason else "",
        )


def _replicate(report: Report, index: int) -> Report:
    own = {name: values[index] for name, values in report.replicates.items() if index < len(values)}
    return Report(
        trial=0,
        rung=report.rung,
        steps=report.steps,
        metrics={**report.metrics, **own},
        measurements=report.measurements,
        seconds=report.seconds,
        device=report.device,
        peak_bytes=report.peak_bytes,
    )
