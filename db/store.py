"""The store: everything a search knows, in one database. The only class of this package that others use.

Records come out frozen and fresh. Every method is one transaction: it happens as a whole or not at all, and survives
kill -9 once it returned. Threads may share a store; a process opens its own, by URL. A PostgreSQL server that goes away
is waited for.
"""

import time
from collections.abc import Callable, Mapping
from dataclasses import replace
from types import TracebackType
from typing import NoReturn, Self

from sqlalchemy import Connection

from hybridsearch.db import reopening, studies, trials
from hybridsearch.db.connect import default_url
from hybridsearch.db.reader import Reader
from hybridsearch.db.records import Event, EventRecord, Final, StudyRecord, Tally, TrialRecord, evaluation_digest
from hybridsearch.db.studies import STALE_SECONDS, this_process
from hybridsearch.db.transactions import Transactions, lasting
from hybridsearch.errors import FailureReason
from hybridsearch.trial import Candidate, Report, TrialState

__all__ = [
    "Event",
    "EventRecord",
    "Final",
    "Store",
    "StudyRecord",
    "Tally",
    "TrialRecord",
    "default_url",
    "evaluation_digest",
]


class Store(Reader):
    """Studies, candidates, trials, reports and events in SQLite or PostgreSQL; made by `Store.open`.

    Every method raises `StoreUnavailable` when the database cannot be used, and `UnknownStudy` for a study that is
    not there. Numbers of trials count from 0 in their study.
    """

    @classmethod
    def open(cls, url: str, *, create: bool = True, clock: Callable[[], float] = time.time) -> Self:
        """Open a store and bring it to this program's schema.

        Args:
            url: e.g. `sqlite:///runs/hybridsearch.db` or `postgresql+psycopg://user:password@host/database`.
            create: whether to make it when there is none.
            clock: gives the time of records, in Unix seconds.

        Raises:
            InvalidSetting: the URL is wrong, or the driver of its database is not installed.
            StoreUnavailable: there is none and `create` is false; or it cannot be used, or is newer than this program.
        """
        return cls(Transactions(url, create=create), clock)

    @property
    def url(self) -> str:
        """Where the store is, without the password."""
        return self._transactions.shown

    def close(self) -> None:
        """Close all connections; the store may be closed twice."""
        self._transactions.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def __reduce__(self) -> NoReturn:
        raise TypeError("a Store belongs to one process; send its URL and open it there")

    # studies

    def create_study(
        self,
        name: str,
        settings_json: str,
        *,
        seed: int,
        space_json: str,
        versions: Mapping[str, str],
        evaluation_digest: str = "",
    ) -> StudyRecord:
        """Add a study.

        Raises:
            InvalidSetting: its name is taken, or its seed does not fit 63 bits.
        """
        with self._transactions.write() as connection:
            values = {
                "name": name,
                "created": self._clock(),
                "settings": settings_json,
                "space": space_json,
                "seed": seed,
                "versions": dict(versions),
                "evaluation_digest": evaluation_digest,
            }
            studies.insert_study(connection, values)
            return studies.find_study(connection, name)

    @lasting
    def claim(self, study: str, owner: str | None = None, *, stale_seconds: float = STALE_SECONDS) -> str | None:
        """Become the one process that runs the study; from then on a write fails once another has taken it over.

        A claim is taken over, and its dead owner returned, when that was silent for `stale_seconds` (call `heartbeat`
        several times as often), or was a process of this host that ended. No `owner` means this process, `host:pid`.

        Raises:
            StoreUnavailable: another owner is alive; the text names it.
        """
        owner = owner or this_process()
        with self._transactions.write() as connection:
            lost = studies.claim_study(connection, study, owner, self._clock(), stale_seconds)
        self._transactions.claims[study] = owner
        return lost

    def release(self, study: str) -> None:
        """Give up this store's claim on the study, if it has one."""
        owner = self._transactions.claims.pop(study, None)
        if owner is not None:
            with self._transactions.write() as connection:
                studies.release_study(connection, study, owner)

    @lasting
    def renew(self, study: str, settings_json: str, *, reopen: bool = False) -> list[int]:
        """Record the settings that a resumed study goes on with, e.g. a larger budget.

        With `reopen`, trials that waited at a rung until the search was over wait there again.

        Returns:
            The numbers of those.
        """
        with self._transactions.write_study(study) as (connection, key):
            studies.renew_settings(connection, key, settings_json)
            return reopening.reopen_left_behind(connection, key, self._clock()) if reopen else []

    @lasting
    def heartbeat(self, study: str, seconds: float = 0.0) -> float:
        """Say that the search is alive, add `seconds` of search time, and return the search time over all resumes."""
        with self._transactions.write_study(study) as (connection, key):
            return studies.beat(connection, key, seconds, self._clock())

    # candidates and trials

    @lasting
    def add_trial(
        self,
        study: str,
        candidate: Candidate,
        *,
        sampler: str,
        seed: int,
        parents: tuple[int, ...] = (),
        state: TrialState = TrialState.WAITING,
        control: str | None = None,
        note: str = "",
    ) -> TrialRecord:
        """Add a trial under the study's next number, its candidate (once per hash), and an event.

        Raises:
            InvalidSetting: the state is neither WAITING nor SCREENED, or the seed does not fit 63 bits.
        """
        values = {
            "sampler": sampler,
            "seed": seed,
            "parents": parents,
            "state": state,
            "control": control,
            "note": note,
        }
        with self._transactions.write_study(study) as (connection, key):
            now = self._clock()
            known = trials.newest(connection, key, study) if self._transactions.in_doubt else None
            if known is not None and (known.candidate.hash, known.seed) == (candidate.hash, seed):
                return known
            added = trials.insert_trial(connection, key, study, candidate, values, now)
            event = Event(kind=state.value, message=note or f"proposed by {sampler}", trial=added.number)
            studies.insert_event(connection, key, event, now)
            return added

    @lasting
    def set_state(
        self,
        study: str,
        number: int,
        state: TrialState,
        *,
        reason: FailureReason | None = None,
        message: str = "",
        event: Event | None = None,
    ) -> bool:
        """Move a trial to another state, with an event (`event`, or one named after the state).

        Returns:
            False, and nothing is changed, when the trial is in that state already.

        Raises:
            InvalidSetting: no such trial or transition, a failure without reason, or a finish without report.
        """
        with self._transactions.write_study(study) as (connection, key):
            return self._move(connection, key, number, state, reason, message, event)

    def add_report(self, study: str, report: Report) -> bool:
        """Add a report; false, and nothing is changed, when its trial and rung have one.

        Raises:
            InvalidSetting: no such trial, its state is final, or a number is not finite.
        """
        return self.record(study, report)

    @lasting
    def record(
        self, study: str, report: Report, *, state: TrialState | None = None, event: Event | None = None
    ) -> bool:
        """Add a report, move its trial and say why, as one: after a crash all three are there or none.

        Sent again, it changes nothing and returns false; the first report stays, since decisions rest on it.

        Raises:
            InvalidSetting: as `add_report` and `set_state`.
        """
        with self._transactions.write_study(study) as (connection, key):
            now = self._clock()
            added = trials.add_report(connection, key, report, now)
            if state is not None:
                self._move(connection, key, report.trial, state, None, event.message if event else "", event)
            elif added and event is not None:
                studies.insert_event(connection, key, _about(event, report.trial), now)
            return added

    # events

    @lasting
    def add_event(self, study: str, event: Event) -> None:
        """Record something that was decided or noticed."""
        with self._transactions.write_study(study) as (connection, key):
            studies.insert_event(connection, key, event, self._clock())

    def _move(
        self,
        connection: Connection,
        key: int,
        number: int,
        state: TrialState,
        reason: FailureReason | None,
        message: str,
        event: Event | None,
    ) -> bool:
        now = self._clock()
        moved = trials.change_state(connection, key, number, state, reason, message, now)
        if moved:
            said = f"{reason}: {message}" if reason else message
            event = event or Event(kind=state.value, message=said)
            studies.insert_event(connection, key, _about(event, number), now)
        return moved


def _about(event: Event, trial: int) -> Event:
    return event if event.trial is not None else replace(event, trial=trial)
