"""What is asked and changed about reports, inside a transaction of `Store`. Numbers are stored exactly or refused."""

import json
import math
from collections.abc import Iterator
from typing import Any

from sqlalchemy import Connection, Select, Text, bindparam, cast, select

from hybridsearch.db.studies import storable
from hybridsearch.db.tables import REPORTS, STUDIES, TRIALS, AnyRow, insert_new
from hybridsearch.errors import InvalidSetting
from hybridsearch.trial import Measurement, Report, TrialState

PARSED_TOGETHER = 2000
"""Rows whose JSON is parsed in one call."""
FIRST_FINISHED = (
    select(TRIALS.c.study_id, TRIALS.c.number)
    .join(STUDIES, STUDIES.c.id == TRIALS.c.study_id)
    .where(
        TRIALS.c.candidate_hash == bindparam("hash"),
        TRIALS.c.state == TrialState.FINISHED.value,
        STUDIES.c.evaluation_digest == bindparam("digest"),
    )
    .order_by(TRIALS.c.ended, TRIALS.c.study_id, TRIALS.c.number)
    .limit(1)
)


def insert_report(connection: Connection, key: int, report: Report, now: float) -> bool:
    """Add a report; false, and nothing changed, when its trial and rung have one.

    Raises:
        InvalidSetting: a number in it is not finite.
    """
    for name, value in _numbers(report):
        if not math.isfinite(value):
            remedy = "only finite numbers are stored: fail the trial with `FailureReason.NOT_A_NUMBER` instead"
            raise InvalidSetting(f"trial {report.trial}, rung {report.rung}: `{name}` is {value}; {remedy}")
    values = {
        "study_id": key,
        "trial": int(report.trial),
        "rung": int(report.rung),
        "time": now,
        "steps": int(report.steps),
        "metrics": {name: float(value) for name, value in report.metrics.items()},
        "replicates": {name: [float(value) for value in values] for name, values in report.replicates.items()},
        "measurements": [_plain(measurement) for measurement in report.measurements],
        "seconds": float(report.seconds),
        "device": storable(report.device),
        "peak_bytes": int(report.peak_bytes),
    }
    return insert_new(connection, REPORTS, values)


def reports(key: int) -> Select[*tuple[Any, ...]]:
    """All reports of a study, by trial and rung, for `load_reports`; further conditions may be added."""
    # One text a row, so that thousands of rows are parsed in one call: half the time of loading a large study.
    numbers = (cast(column, Text) for column in (REPORTS.c.metrics, REPORTS.c.replicates, REPORTS.c.measurements))
    plain = (
        REPORTS.c.trial,
        REPORTS.c.rung,
        REPORTS.c.steps,
        REPORTS.c.seconds,
        REPORTS.c.device,
        REPORTS.c.peak_bytes,
    )
    return select(*plain, *numbers).where(REPORTS.c.study_id == key).order_by(REPORTS.c.trial, REPORTS.c.rung)


def load_reports(connection: Connection, query: Select[*tuple[Any, ...]]) -> list[Report]:
    """The reports that `query`, made by `reports`, finds."""
    found: list[Report] = []
    for rows in connection.execute(query).partitions(PARSED_TOGETHER):
        texts = ",".join(f"[{metrics},{replicates},{measurements}]" for *_, metrics, replicates, measurements in rows)
        found.extend(map(_report_of, rows, json.loads(f"[{texts}]")))
    return found


def find_cached(connection: Connection, candidate_hash: str, digest: str) -> tuple[Report, ...]:
    """The reports of the first finished trial of the candidate in any study of that digest; empty if none."""
    if not digest:
        return ()
    first = connection.execute(FIRST_FINISHED, {"hash": candidate_hash, "digest": digest}).one_or_none()
    if first is None:
        return ()
    return tuple(load_reports(connection, reports(first.study_id).where(REPORTS.c.trial == first.number)))


def _numbers(report: Report) -> Iterator[tuple[str, float]]:
    yield "seconds", report.seconds
    yield from report.metrics.items()
    for name, values in report.replicates.items():
        yield from ((f"replicates of {name}", value) for value in values)
    for shape in report.measurements:
        yield from ((shape.key, value) for value in (shape.tokens_per_second, shape.low, shape.high))


def _plain(measurement: Measurement) -> dict[str, str | float]:
    return {
        "phase": measurement.phase,
        "context": measurement.context,
        "batch": measurement.batch,
        "tokens_per_second": float(measurement.tokens_per_second),
        "low": float(measurement.low),
        "high": float(measurement.high),
        "repeats": measurement.repeats,
    }


def _report_of(row: AnyRow, numbers: Any) -> Report:
    trial, rung, steps, seconds, device, peak_bytes, *_ = row
    metrics, replicates, measurements = numbers
    return Report(
        trial=trial,
        rung=rung,
        steps=steps,
        metrics=metrics,
        replicates={name: tuple(values) for name, values in replicates.items()},
        measurements=tuple([Measurement(**measurement) for measurement in measurements]),
        seconds=seconds,
        device=device,
        peak_bytes=peak_bytes,
    )
