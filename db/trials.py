"""What is asked and changed about trials, inside a transaction of `Store`: numbering, states, loading."""

import gc
from collections import defaultdict
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

from sqlalchemy import Connection, bindparam, func, insert, select, update

from hybridsearch.db.candidates import COLUMNS, candidate_of, insert_candidate
from hybridsearch.db.records import Final, Tally, TrialRecord
from hybridsearch.db.reports import insert_report, load_reports, reports
from hybridsearch.db.studies import LARGEST_INTEGER, storable
from hybridsearch.db.tables import CANDIDATES, REPORTS, TRIALS, AnyRow
from hybridsearch.errors import FailureReason, InvalidSetting
from hybridsearch.trial import Candidate, Report, TrialState

TRANSITIONS: Mapping[TrialState, tuple[TrialState, ...]] = {
    TrialState.WAITING: (
        TrialState.RUNNING,
        TrialState.FINISHED,  # from the result cache
        TrialState.STOPPED,
        TrialState.SCREENED,
        TrialState.FAILED,
    ),
    TrialState.RUNNING: (
        TrialState.WAITING,  # its worker was lost, or the controller was
        TrialState.PAUSED,
        TrialState.FINISHED,
        TrialState.STOPPED,
        TrialState.FAILED,
    ),
    TrialState.PAUSED: (TrialState.WAITING, TrialState.RUNNING, TrialState.STOPPED, TrialState.FAILED),
}
"""States that may follow a state; those not listed are final."""
INITIAL = (TrialState.WAITING, TrialState.SCREENED)

# Built once, as in `studies`.
INSERT_TRIAL = insert(TRIALS)
HIGHEST = select(func.max(TRIALS.c.number)).where(TRIALS.c.study_id == bindparam("key"))
THIS = (TRIALS.c.study_id == bindparam("key"), TRIALS.c.number == bindparam("which"))
STANDS = select(TRIALS.c.state, TRIALS.c.started).where(*THIS)
CHANGE = update(TRIALS).where(*THIS)
LATEST_RUNG = select(func.max(REPORTS.c.rung)).where(
    REPORTS.c.study_id == bindparam("key"), REPORTS.c.trial == bindparam("which")
)


def insert_trial(
    connection: Connection, key: int, study: str, candidate: Candidate, values: Mapping[str, Any], now: float
) -> TrialRecord:
    """Add a candidate and its trial; returns the trial as it will be read back. The study must be locked.

    Raises:
        InvalidSetting: the state is no first state, or the seed too large.
    """
    state: TrialState = values["state"]
    if state not in INITIAL:
        allowed = " or ".join(first.value for first in INITIAL)
        raise InvalidSetting(f"a new trial cannot be {state.value}; it is {allowed}")
    if not 0 <= values["seed"] <= LARGEST_INTEGER:
        raise InvalidSetting(f"seed {values['seed']} is out of range; choose one from 0 to {LARGEST_INTEGER}")
    fresh = insert_candidate(connection, candidate)
    number = count(connection, key)
    shared = {
        **values,
        "number": number,
        "note": storable(values["note"]),
        "reason": None,
        "message": "",
        "created": now,
        "started": None,
        "ended": now if state.final else None,
    }
    columns = {
        **shared,
        "study_id": key,
        "candidate_hash": candidate.hash,
        "state_bytes": candidate.state_bytes,
        "flops_per_token": candidate.flops_per_token,
        "state": state.value,
        "parents": list(values["parents"]),
    }
    connection.execute(INSERT_TRIAL, columns)
    if not fresh:  # its name and its count are those of whoever tried it first
        return load_trials(connection, key, study, number=number)[0]
    return TrialRecord(study=study, candidate=candidate, reports=(), **shared)


def change_state(
    connection: Connection,
    key: int,
    number: int,
    state: TrialState,
    reason: FailureReason | None,
    message: str,
    now: float,
) -> bool:
    """Move a trial to `state`; false, and nothing changed, when it is there already.

    Raises:
        InvalidSetting: no such trial, no such transition, or a failure without reason.
    """
    row = _row(connection, key, number)
    old = TrialState(row.state)
    if state is old:
        return False
    allowed = TRANSITIONS.get(old, ())
    if state not in allowed:
        rule = f"from there it may become {', '.join(allowed)}" if allowed else "that is final"
        raise InvalidSetting(f"trial {number} is {old.value} and cannot become {state.value}; {rule}")
    if (state is TrialState.FAILED) != (reason is not None):
        raise InvalidSetting(f"trial {number}: a failed trial needs a reason, and only a failed one takes a reason")
    if state is TrialState.FINISHED and _latest_rung(connection, key, number) is None:
        raise InvalidSetting(f"trial {number} cannot be finished without a report; record its reports first")
    values: dict[str, Any] = {
        "state": state.value,
        "reason": reason.value if reason else None,
        "message": storable(message),
    }
    if state is TrialState.RUNNING and row.started is None:
        values["started"] = now
    if state.final:
        values["ended"] = now
    connection.execute(CHANGE, {"key": key, "which": number, **values})
    return True


def add_report(connection: Connection, key: int, report: Report, now: float) -> bool:
    """Add a report to its trial; false, and nothing changed, when the rung has one.

    A finished trial still takes reports above its last rung: those of a confirmation.

    Raises:
        InvalidSetting: no such trial, its state is final, or a number is not finite.
    """
    state = TrialState(_row(connection, key, report.trial).state)
    latest = _latest_rung(connection, key, report.trial)
    added = insert_report(connection, key, report, now)
    confirms = state is TrialState.FINISHED and latest is not None and report.rung > latest
    if added and state.final and not confirms:
        raise InvalidSetting(
            f"trial {report.trial} is {state.value}, which is final; drop its report of rung {report.rung}"
        )
    return added


def count_states(connection: Connection, key: int) -> dict[TrialState, int]:
    """Number of the study's trials in every state, zeros included."""
    query = select(TRIALS.c.state, func.count()).where(TRIALS.c.study_id == key).group_by(TRIALS.c.state)
    found = {row[0]: row[1] for row in connection.execute(query)}
    return {state: int(found.get(state.value, 0)) for state in TrialState}


def tally(connection: Connection, key: int) -> list[Tally]:
    """The study's trials by state, reason of failure, and whether they are controls."""
    kind = (TRIALS.c.state, TRIALS.c.reason, TRIALS.c.control.is_not(None).label("control"))
    query = select(*kind, func.count().label("count")).where(TRIALS.c.study_id == key).group_by(*kind)
    return [
        Tally(
            state=TrialState(row.state),
            reason=None if row.reason is None else FailureReason(row.reason),
            control=bool(row.control),
            count=row[3],
        )
        for row in connection.execute(query)
    ]


def load_finals(connection: Connection, key: int, names: Sequence[str]) -> list[Final]:
    """Finished trials by number, with the metrics of these names; the database reads them out of its JSON.

    Of 10,000 trials that takes 0.1 s, loading their reports 1 s.
    """
    same = (TRIALS.c.study_id == REPORTS.c.study_id) & (TRIALS.c.number == REPORTS.c.trial)
    columns = [REPORTS.c.metrics[name].as_float() for name in names]
    query = (
        select(TRIALS.c.number, TRIALS.c.created, TRIALS.c.ended, *columns)
        .join(REPORTS, same)
        .where(TRIALS.c.study_id == key, TRIALS.c.state == TrialState.FINISHED.value)
        .order_by(TRIALS.c.number, REPORTS.c.rung)
    )
    found: dict[int, Final] = {}
    for number, created, ended, *values in connection.execute(query):
        metrics = {name: float(value) for name, value in zip(names, values, strict=True) if value is not None}
        earlier = found[number].metrics if number in found else {}
        found[number] = Final(number=number, created=created, ended=ended or 0.0, metrics={**earlier, **metrics})
    return list(found.values())


def count(connection: Connection, key: int) -> int:
    """Number of the study's trials."""
    highest = connection.execute(HIGHEST, {"key": key}).scalar_one()
    return 0 if highest is None else int(highest) + 1


def numbers_in(connection: Connection, key: int, state: TrialState) -> set[int]:
    """Numbers of the study's trials in one state."""
    query = select(TRIALS.c.number).where(TRIALS.c.study_id == key, TRIALS.c.state == state.value)
    return set(connection.execute(query).scalars())


def load_trials(
    connection: Connection,
    key: int,
    study: str,
    states: Collection[TrialState] | None = None,
    number: int | None = None,
    numbers: Collection[int] | range | None = None,
) -> list[TrialRecord]:
    """Trials with candidate and reports, by number, in two queries; all of them, those in `states`, one, or some."""
    trials = (
        select(TRIALS, *COLUMNS[:4])
        .join(CANDIDATES, CANDIDATES.c.hash == TRIALS.c.candidate_hash)
        .where(TRIALS.c.study_id == key)
        .order_by(TRIALS.c.number)
    )
    theirs = reports(key)
    if states is not None:
        wanted = TRIALS.c.state.in_([state.value for state in states])
        same = (TRIALS.c.study_id == REPORTS.c.study_id) & (TRIALS.c.number == REPORTS.c.trial)
        trials, theirs = trials.where(wanted), theirs.join(TRIALS, same).where(wanted)
    if number is not None:
        trials, theirs = trials.where(TRIALS.c.number == number), theirs.where(REPORTS.c.trial == number)
    if isinstance(numbers, range):
        ends = numbers.start, numbers.stop - 1
        trials, theirs = trials.where(TRIALS.c.number.between(*ends)), theirs.where(REPORTS.c.trial.between(*ends))
    elif numbers is not None:
        trials, theirs = trials.where(TRIALS.c.number.in_(numbers)), theirs.where(REPORTS.c.trial.in_(numbers))
    with _no_collection():
        found: defaultdict[int, list[Report]] = defaultdict(list)
        for report in load_reports(connection, theirs):
            found[report.trial].append(report)
        return [_trial_of(row, study, tuple(found.get(row.number, ()))) for row in connection.execute(trials)]


def newest(connection: Connection, key: int, study: str) -> TrialRecord | None:
    """The trial of the highest number, or none."""
    return next(iter(load_trials(connection, key, study, number=count(connection, key) - 1)), None)


def load_trial(connection: Connection, key: int, study: str, number: int) -> TrialRecord:
    """One trial.

    Raises:
        InvalidSetting: the study has no trial of that number.
    """
    _row(connection, key, number)
    return load_trials(connection, key, study, number=number)[0]


@contextmanager
def _no_collection() -> Iterator[None]:
    """Loading makes no garbage, only half a million small values; searching them for some takes a third of the time."""
    was_on = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_on:
            gc.enable()


def _row(connection: Connection, key: int, number: int) -> AnyRow:
    row = connection.execute(STANDS, {"key": key, "which": number}).one_or_none()
    if row is None:
        raise InvalidSetting(f"the study has no trial {number}; its numbers begin at 0 and have no gaps")
    return row


def _latest_rung(connection: Connection, key: int, number: int) -> int | None:
    latest: int | None = connection.execute(LATEST_RUNG, {"key": key, "which": number}).scalar_one()
    return latest


def _trial_of(row: AnyRow, study: str, theirs: tuple[Report, ...]) -> TrialRecord:
    return TrialRecord(
        study=study,
        number=row.number,
        candidate=candidate_of(row),
        sampler=row.sampler,
        parents=tuple(row.parents),
        seed=row.seed,
        control=row.control,
        note=row.note,
        state=TrialState(row.state),
        reason=None if row.reason is None else FailureReason(row.reason),
        message=row.message,
        created=row.created,
        started=row.started,
        ended=row.ended,
        reports=theirs,
    )
