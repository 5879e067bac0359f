"""A store in memory, for searches over a table in their thousands."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from hybridsearch.control import simulated
from hybridsearch.db.records import StudyRecord, TrialRecord
from hybridsearch.db.store import Event
from hybridsearch.trial import Candidate, Report, TrialState


@dataclass
class MemoryStore:
    """Stands for the store: a search of a table need not survive its process, and SQLite would take half its time."""

    clock: simulated.Clock
    kept: list[TrialRecord] = field(default_factory=list)

    def study(self, name: str) -> StudyRecord:
        """A study without past."""
        return StudyRecord(
            name=name, created=0.0, settings_json="", space_json="", seed=0, versions={}, evaluation_digest="",
            elapsed=0.0, owner=None, heartbeat=None,
        )  # fmt: skip

    def trials(self, study: str) -> list[TrialRecord]:
        """All trials."""
        return list(self.kept)

    def some_trials(self, study: str, numbers: Sequence[int]) -> list[TrialRecord]:
        """Some trials."""
        return [self.kept[number] for number in numbers]

    def trial(self, study: str, number: int) -> TrialRecord:
        """One trial."""
        return self.kept[number]

    def batches(self, study: str) -> Iterator[list[TrialRecord]]:
        """All trials at once."""
        yield list(self.kept)

    def waiting_at_rung(self, study: str) -> set[int]:
        """Nobody waits when a search begins."""
        return set()

    def add_trial(self, study: str, candidate: Candidate, **values: Any) -> TrialRecord:
        """Add a trial."""
        now, state = self.clock.now, values["state"]
        trial = TrialRecord(
            study=study, number=len(self.kept), candidate=candidate, reason=None, message="", created=now, started=None,
            ended=now if state.final else None, reports=(), **values,
        )  # fmt: skip
        self.kept.append(trial)
        return trial

    def set_state(self, study: str, number: int, state: TrialState, **said: Any) -> bool:
        """Move a trial."""
        ended = self.clock.now if state.final else None
        known = self.kept[number]
        self.kept[number] = replace(
            known, state=state, ended=ended, reason=said.get("reason"), message=said.get("message", "")
        )
        return known.state is not state

    def record(
        self, study: str, report: Report, *, state: TrialState | None = None, event: Event | None = None
    ) -> bool:
        """Add a report, and move its trial."""
        known = self.kept[report.trial]
        self.kept[report.trial] = replace(known, reports=(*known.reports, report))
        return state is None or self.set_state(study, report.trial, state)

    def add_event(self, study: str, event: Event) -> None:
        """Nothing."""

    def heartbeat(self, study: str, seconds: float) -> float:
        """Search time so far, without what the controller's own clock has counted since."""
        return self.clock.now
