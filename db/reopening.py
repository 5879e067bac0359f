"""Trials that waited at a rung until their search was over wait again when it is given more to do."""

from sqlalchemy import Connection, select, update

from hybridsearch.db.records import Event
from hybridsearch.db.studies import find_rung_pauses, insert_event
from hybridsearch.db.tables import EVENTS, TRIALS
from hybridsearch.db.trials import numbers_in
from hybridsearch.trial import TrialState

SAID = "waits again: the search has a larger budget"


def reopen_left_behind(connection: Connection, key: int, now: float) -> list[int]:
    """Turn stopped trials back into paused ones, if a pause at a rung was the last that was decided before their end.

    Their reports stay, and so do their checkpoints. Trials that a rule has stopped at once never paused.
    """
    found = sorted(find_rung_pauses(connection, key) & numbers_in(connection, key, TrialState.STOPPED))
    for number in found:
        about = (EVENTS.c.study_id == key) & (EVENTS.c.trial == number) & (EVENTS.c.kind == TrialState.PAUSED.value)
        rung = connection.execute(select(EVENTS.c.rung).where(about).order_by(EVENTS.c.id.desc()).limit(1)).scalar_one()
        changed = {"state": TrialState.PAUSED.value, "ended": None, "message": SAID}
        connection.execute(update(TRIALS).where(TRIALS.c.study_id == key, TRIALS.c.number == number).values(changed))
        insert_event(connection, key, Event(kind=TrialState.PAUSED.value, message=SAID, trial=number, rung=rung), now)
    return found
