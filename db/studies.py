"""What is asked and changed about studies, inside a transaction of `Store`: creating, finding, claiming, events."""

import os
import socket
from collections.abc import Mapping
from difflib import get_close_matches
from typing import Any

from sqlalchemy import Connection, bindparam, func, insert, select, update

from hybridsearch.db.records import Event, EventRecord, StudyRecord
from hybridsearch.db.tables import EVENTS, STUDIES, AnyRow
from hybridsearch.errors import InvalidSetting, StoreUnavailable, UnknownStudy
from hybridsearch.trial import TrialState

STALE_SECONDS = 120.0
"""Silence of an owner after which its study may be taken over."""
LONGEST_MESSAGE = 4000
"""Characters of a message that are kept."""
LARGEST_INTEGER = 2**63 - 1

# A statement that is built once runs in 20 us; building it takes another 100.
NAMED = STUDIES.c.name == bindparam("study")
KEYED = STUDIES.c.id == bindparam("key")
FIND_ID = select(STUDIES.c.id).where(NAMED)
LOCK = select(STUDIES.c.id, STUDIES.c.owner).where(NAMED).with_for_update()
BEAT = update(STUDIES).where(KEYED).values(
    elapsed=STUDIES.c.elapsed + bindparam("seconds"), heartbeat=bindparam("now")
)  # fmt: skip
ELAPSED = select(STUDIES.c.elapsed).where(KEYED)
INSERT_EVENT = insert(EVENTS)


def this_process() -> str:
    """The owner text of this process, `host:pid`."""
    return f"{socket.gethostname()}:{os.getpid()}"


def insert_study(connection: Connection, values: Mapping[str, Any]) -> None:
    """Add a study.

    Raises:
        InvalidSetting: its name is taken, or its seed too large.
    """
    name, seed = values["name"], values["seed"]
    if not 0 <= seed <= LARGEST_INTEGER:
        raise InvalidSetting(f"seed {seed} is out of range; choose one from 0 to {LARGEST_INTEGER}")
    if connection.execute(select(STUDIES.c.id).where(STUDIES.c.name == name)).first():
        raise InvalidSetting(f"study `{name}` exists already; resume it, or choose another name")
    connection.execute(insert(STUDIES).values(elapsed=0.0, **values))


def find_study(connection: Connection, name: str) -> StudyRecord:
    """The study called `name`.

    Raises:
        UnknownStudy: there is none; the text names the nearest.
    """
    row = connection.execute(select(STUDIES).where(STUDIES.c.name == name)).one_or_none()
    if row is None:
        raise _unknown(connection, name)
    return _study_record(row)


def all_studies(connection: Connection) -> list[StudyRecord]:
    """Every study, oldest first."""
    return [_study_record(row) for row in connection.execute(select(STUDIES).order_by(STUDIES.c.id))]


def study_id(connection: Connection, name: str) -> int:
    """The key of the study's rows.

    Raises:
        UnknownStudy: there is none of that name.
    """
    found = connection.execute(FIND_ID, {"study": name}).scalar_one_or_none()
    if found is None:
        raise _unknown(connection, name)
    return int(found)


def lock_study(connection: Connection, name: str, claimed: str | None) -> int:
    """The study's key, held against other writers until the transaction ends.

    Args:
        connection: in a writing transaction.
        name: of the study.
        claimed: the owner that the caller believes to be, or none if it claimed nothing.

    Raises:
        UnknownStudy: there is none of that name.
        StoreUnavailable: another process has taken the study over.
    """
    row = connection.execute(LOCK, {"study": name}).one_or_none()
    if row is None:
        raise _unknown(connection, name)
    if claimed is not None and row.owner != claimed:
        raise StoreUnavailable(
            f"study `{name}` is now run by {row.owner or 'nobody'}, no longer by {claimed}; stop here"
        )
    return int(row.id)


def claim_study(connection: Connection, name: str, owner: str, now: float, stale_seconds: float) -> str | None:
    """Make `owner` the one process that runs the study, and say who lost it.

    Raises:
        StoreUnavailable: another owner is alive.
    """
    key = lock_study(connection, name, None)
    holder, beat = connection.execute(select(STUDIES.c.owner, STUDIES.c.heartbeat).where(STUDIES.c.id == key)).one()
    silent = now - (beat or 0.0)
    if holder not in (None, owner) and silent < stale_seconds and not _dead(holder):
        rule = f"one process runs a study: stop that one, or wait until it was silent for {stale_seconds:g} s"
        raise StoreUnavailable(f"study `{name}` is run by {holder}, last seen {max(silent, 0.0):.0f} s ago; {rule}")
    connection.execute(update(STUDIES).where(STUDIES.c.id == key).values(owner=owner, heartbeat=now))
    lost = holder if holder != owner else None
    insert_event(
        connection, key, Event(kind="claim", message=f"{owner} takes over from {lost}" if lost else owner), now
    )
    return lost


def release_study(connection: Connection, name: str, owner: str) -> None:
    """Give the study up, if `owner` still has it."""
    mine = (STUDIES.c.name == name) & (STUDIES.c.owner == owner)
    connection.execute(update(STUDIES).where(mine).values(owner=None))


def beat(connection: Connection, key: int, seconds: float, now: float) -> float:
    """Add search time, note a sign of life, and return the search time so far."""
    connection.execute(BEAT, {"key": key, "seconds": seconds, "now": now})
    return float(connection.execute(ELAPSED, {"key": key}).scalar_one())


def renew_settings(connection: Connection, key: int, settings_json: str) -> None:
    """Replace the study's settings."""
    connection.execute(update(STUDIES).where(STUDIES.c.id == key).values(settings=settings_json))


def insert_event(connection: Connection, key: int, event: Event, now: float) -> None:
    """Add an event to the study."""
    values = {
        "study_id": key,
        "time": now,
        "trial": event.trial,
        "kind": event.kind,
        "rung": event.rung,
        "rank": event.rank,
        "message": storable(event.message),
    }
    connection.execute(INSERT_EVENT, values)


def find_events(connection: Connection, key: int, after: int, limit: int | None, newest: bool) -> list[EventRecord]:
    """Events with an id above `after`, oldest first; at most `limit`, from the start or (`newest`) from the end."""
    query = select(EVENTS).where(EVENTS.c.study_id == key, EVENTS.c.id > after).limit(limit)
    rows = connection.execute(query.order_by(EVENTS.c.id.desc() if newest else EVENTS.c.id)).all()
    return [
        EventRecord(
            id=row.id, time=row.time, kind=row.kind, message=row.message, trial=row.trial, rung=row.rung, rank=row.rank
        )
        for row in (reversed(rows) if newest else rows)
    ]


def find_rung_pauses(connection: Connection, key: int) -> set[int]:
    """Trials whose latest pause was a decision at a rung (one that a drain put down has no rung)."""
    pauses = (EVENTS.c.study_id == key) & (EVENTS.c.kind == TrialState.PAUSED.value)
    latest = select(func.max(EVENTS.c.id)).where(pauses).group_by(EVENTS.c.trial)
    at_rung = select(EVENTS.c.trial).where(EVENTS.c.id.in_(latest), EVENTS.c.rung.is_not(None))
    return {trial for trial in connection.execute(at_rung).scalars() if trial is not None}


def storable(text: str) -> str:
    """Text that every database takes: no NUL, no half characters, and no novel (a traceback may hold all three)."""
    return text[:LONGEST_MESSAGE].encode("utf-8", "backslashreplace").decode().replace("\x00", "\\x00")


def _study_record(row: AnyRow) -> StudyRecord:
    return StudyRecord(
        name=row.name,
        created=row.created,
        settings_json=row.settings,
        space_json=row.space,
        seed=row.seed,
        versions=row.versions,
        evaluation_digest=row.evaluation_digest,
        elapsed=row.elapsed,
        owner=row.owner,
        heartbeat=row.heartbeat,
    )


def _unknown(connection: Connection, name: str) -> UnknownStudy:
    names = list(connection.execute(select(STUDIES.c.name).order_by(STUDIES.c.id.desc())).scalars())
    near = get_close_matches(name, names, n=3, cutoff=0.5) or names[:3]
    hint = f"nearest: {', '.join(near)}" if near else "it holds no study yet"
    return UnknownStudy(f"no study `{name}` in this store; {hint}")


def _dead(owner: str) -> bool:
    """Whether `owner` was a process of this host that has ended."""
    host, _, pid = owner.rpartition(":")
    if host != socket.gethostname() or not pid.isdigit():
        return False
    try:
        os.kill(int(pid), 0)
    except ProcessLookupError:
        return True
    except OSError:
        return False
    return False
