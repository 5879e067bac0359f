"""What is asked about the events of some trials, inside a transaction of `Store`."""

from collections.abc import Collection

from sqlalchemy import Connection, or_, select

from hybridsearch.db.records import EventRecord
from hybridsearch.db.tables import EventRow


def find_events_of(
    connection: Connection, key: int, trials: Collection[int], kinds: Collection[str]
) -> list[EventRecord]:
    """The study's events that are about one of the trials, or of one of the kinds, oldest first."""
    wanted = or_(EventRow.trial.in_(trials), EventRow.kind.in_(kinds))
    query = select(EventRow.__table__).where(EventRow.study_id == key, wanted).order_by(EventRow.id)
    return [
        EventRecord(
            id=row.id, time=row.time, kind=row.kind, message=row.message, trial=row.trial, rung=row.rung, rank=row.rank
        )
        for row in connection.execute(query)
    ]
