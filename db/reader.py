"""What can be asked of a store; nothing here writes."""

from collections.abc import Callable, Collection, Iterator, Sequence

from hybridsearch.db import candidates, events, reports, studies, trials
from hybridsearch.db.records import EventRecord, Final, StudyRecord, Tally, TrialRecord
from hybridsearch.db.transactions import Transactions
from hybridsearch.trial import Candidate, Report, TrialState

BATCH = 500
"""Trials that are loaded at once where all of them are passed over: about 5 MB."""


class Reader:
    """The reading half of `Store`. Records come out frozen and fresh; each method sees one snapshot."""

    def __init__(self, transactions: Transactions, clock: Callable[[], float]) -> None:
        self._transactions = transactions
        self._clock = clock

    def study(self, name: str) -> StudyRecord:
        """The study called `name`; the error for an unknown one names the nearest."""
        with self._transactions.read() as connection:
            return studies.find_study(connection, name)

    def studies(self) -> list[StudyRecord]:
        """All studies, oldest first."""
        with self._transactions.read() as connection:
            return studies.all_studies(connection)

    def candidate(self, digits: str, *, study: str | None = None) -> Candidate:
        """The candidate whose hash begins with `digits`, counted as in its newest trial (of `study`, if given).

        Raises:
            InvalidSetting: fewer than 4 digits, no such candidate, or several.
        """
        with self._transactions.read() as connection:
            if study is not None:
                studies.study_id(connection, study)
            return candidates.find_candidate(connection, digits, study)

    def trial(self, study: str, number: int) -> TrialRecord:
        """One trial.

        Raises:
            InvalidSetting: the study has no trial of that number.
        """
        with self._transactions.read() as connection:
            key = studies.study_id(connection, study)
            return trials.load_trial(connection, key, study, number)

    def trials(self, study: str, states: Collection[TrialState] | None = None) -> list[TrialRecord]:
        """The study's trials by number, with candidates and reports; all of them, or those in `states`."""
        with self._transactions.read() as connection:
            key = studies.study_id(connection, study)
            return trials.load_trials(connection, key, study, states)

    def batches(self, study: str, size: int = BATCH, *, newest_first: bool = False) -> Iterator[list[TrialRecord]]:
        """All trials in batches of neighbours, by number in each: never all in memory at once, nor of one snapshot."""
        with self._transactions.read() as connection:
            starts = range(0, trials.count(connection, studies.study_id(connection, study)), size)
        for start in reversed(starts) if newest_first else starts:
            yield self.some_trials(study, range(start, start + size))

    def some_trials(self, study: str, numbers: Collection[int]) -> list[TrialRecord]:
        """The study's trials of these numbers, by number; unknown ones are left out. Best for a range, or hundreds."""
        with self._transactions.read() as connection:
            key = studies.study_id(connection, study)
            return trials.load_trials(connection, key, study, numbers=numbers)

    def finals(self, study: str, names: Sequence[str]) -> list[Final]:
        """The finished trials by number, with the metrics of these names and nothing else."""
        with self._transactions.read() as connection:
            return trials.load_finals(connection, studies.study_id(connection, study), names)

    def tally(self, study: str) -> list[Tally]:
        """The study's trials counted by state, reason of failure, and whether they are controls."""
        with self._transactions.read() as connection:
            return trials.tally(connection, studies.study_id(connection, study))

    def counts(self, study: str) -> dict[TrialState, int]:
        """Number of trials in each state, zeros included."""
        with self._transactions.read() as connection:
            return trials.count_states(connection, studies.study_id(connection, study))

    def waiting_at_rung(self, study: str) -> set[int]:
        """Numbers of the trials that early stopping has paused at a rung and not let go on since."""
        with self._transactions.read() as connection:
            key = studies.study_id(connection, study)
            return studies.find_rung_pauses(connection, key) & trials.numbers_in(connection, key, TrialState.PAUSED)

    def cached_reports(self, candidate_hash: str, evaluation_digest: str) -> tuple[Report, ...]:
        """Reports of the first finished trial, in any study, of this candidate under this evaluation; empty if none."""
        with self._transactions.read() as connection:
            return reports.find_cached(connection, candidate_hash, evaluation_digest)

    def events(
        self, study: str, after: int = 0, limit: int | None = None, *, newest: bool = False
    ) -> list[EventRecord]:
        """Events with an id above `after`, oldest first: the first `limit` of them, or with `newest` the last."""
        with self._transactions.read() as connection:
            return studies.find_events(connection, studies.study_id(connection, study), after, limit, newest)

    def events_of(self, study: str, trials: Collection[int], kinds: Collection[str] = ()) -> list[EventRecord]:
        """Events that are about one of the trials, or of one of the kinds, oldest first; best for a few trials."""
        with self._transactions.read() as connection:
            return events.find_events_of(connection, studies.study_id(connection, study), trials, kinds)
