"""What is asked about the events of some trials, inside a transaction of `Store`."""

from collections.abc import Collection

from sqlalchemy import Connection, or_, select

from hybridsearch.db.records import EventRecord
from hybridsearch.db.tables import EVENTS


def find_events_of(
    connection: Connection, key: int, trials: Collection[int], kinds: Collection[str]
) -> list[EventRecord]:
    """The study's events that are about one of the trials, or of one of the kinds, oldest first."""
    wanted = or_(EVENTS.c.trial.in_(trials), EVENTS.c.kind.in_(kinds))
    query = select(EVENTS).where(EVENTS.c.study_id == key, wanted).order_by(EVENTS.c.id)
    return [
        EventRecord(
            id=row.id, time=row.time, kind=row.kind, message=row.message, trial=row.trial, rung=row.rung, rank=row.rank
        )
        for row in connection.execute(query)
    ]
