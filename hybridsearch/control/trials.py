"""What is known of one study's trials while its search runs, derived from the store: the reading half of the ledger.

It keeps what decisions need. Of a trial that has ended, or waits at a rung, that is its observation; whoever asks for
more (a table of all points, a confirmation) has it read from the store again.
"""

from collections import Counter
from collections.abc import Iterator
from dataclasses import replace

from hybridsearch.control.active import Active
from hybridsearch.control.observing import moved, observation
from hybridsearch.control.standing import empty_front
from hybridsearch.db.records import TrialRecord
from hybridsearch.db.store import Store
from hybridsearch.errors import FailureReason
from hybridsearch.reporting.points import Point, point
from hybridsearch.search.history import History, Observation
from hybridsearch.search.rungs import Ladder
from hybridsearch.settings import SearchSettings
from hybridsearch.trial import Candidate, TrialState


class Trials:
    """The trials of one study, as the store holds them."""

    def __init__(self, store: Store, study: str, settings: SearchSettings) -> None:
        self.study = study
        self.history = History()
        self._store = store
        self._settings = settings
        self._ladder = Ladder.of_search(settings)
        self._front = empty_front(settings)
        self._active: dict[int, Active] = {}
        self._controls: dict[str, Candidate] = {}
        self._states: Counter[TrialState] = Counter()
        self._reasons: Counter[FailureReason] = Counter()
        self._confirmed: set[int] = set()
        self._shown: dict[int, Point] = {}
        self.waiting = store.waiting_at_rung(study)
        """Trials that pause at a rung and may be promoted."""
        self._restore()

    @property
    def finished(self) -> list[TrialRecord]:
        """All finished trials with their reports, by number, read from the store."""
        return self._store.trials(self.study, {TrialState.FINISHED})

    def latest(self) -> Iterator[TrialRecord]:
        """All trials, the newest first, read from the store as they are asked for."""
        for batch in self._store.batches(self.study, newest_first=True):
            yield from reversed(batch)

    @property
    def unfinished(self) -> list[int]:
        """Trials that still have to run, by number; those that wait at a rung may never have to."""
        return sorted(self._active)

    @property
    def running(self) -> list[Active]:
        """Trials that a worker has, by number."""
        return [t for number in self.unfinished if (t := self._active[number]).state is TrialState.RUNNING]

    @property
    def next_number(self) -> int:
        """Number of the next trial."""
        return len(self.history)

    @property
    def counted(self) -> int:
        """Trials that count for the budget: all but controls and screened ones."""
        return len(self.history) - len(self._controls) - self._states[TrialState.SCREENED]

    @property
    def controls(self) -> dict[str, Candidate]:
        """Controls that were recorded, by name."""
        return dict(self._controls)

    @property
    def unconfirmed(self) -> list[int]:
        """Trials on the front that were not measured again, by the first objective."""
        return [n for n, _ in self._front.members if n not in self._confirmed]

    @property
    def hypervolume(self) -> float:
        """Hypervolume of the front so far."""
        return self._front.hypervolume

    def counts(self) -> dict[TrialState, int]:
        """Trials in each state, zeros included."""
        return {state: self._states[state] for state in TrialState}

    def labels(self) -> dict[str, int]:
        """Trials by state, failed ones by reason, e.g. `failed: out of memory`; no zeros."""
        states = {state.value: count for state, count in self._states.items() if state is not TrialState.FAILED}
        reasons = {f"{TrialState.FAILED}: {reason}": count for reason, count in self._reasons.items()}
        return {label: count for label, count in (states | reasons).items() if count}

    def state(self, trial: int) -> TrialState:
        """Where a trial stands."""
        return self.history.of(trial).state

    def record(self, trial: int) -> Active:
        """A trial with its reports; one that has ended, or waits at a rung, is read from the store."""
        return self._active.get(trial) or Active.of(self._store.trial(self.study, trial))

    def points(self) -> list[Point]:
        """All finished trials, as figures and tables show them."""
        return [self._point(trial) for trial in self.finished]

    def front_points(self) -> list[Point]:
        """The points on the front, by the first objective."""
        numbers = [number for number, _ in self._front.members]
        fresh = [number for number in numbers if number not in self._shown]
        read = {t.number: self._point(t) for t in self._store.some_trials(self.study, fresh)} if fresh else {}
        self._shown = {number: read.get(number) or self._shown[number] for number in numbers}
        return list(self._shown.values())

    # how it is kept

    def _restore(self) -> None:
        """Learn what the store holds: results count in the order in which trials ended."""
        found: list[tuple[float, Observation]] = []
        for batch in self._store.batches(self.study):
            for record in batch:
                found.append((record.ended or 0.0, self._learn(Active.of(record))))
                if record.reason is not None:
                    self._reasons[record.reason] += 1
        for _, seen in sorted(found, key=lambda pair: (pair[0], pair[1].trial)):
            self._see(seen)

    def _change(self, trial: int, state: TrialState) -> None:
        """Follow a trial into another state; nothing else of it has changed."""
        if state.final:
            self._active.pop(trial, None)
        else:
            self._active[trial] = replace(self.record(trial), state=state)
        self._see(moved(self.history.of(trial), state))

    def _learn(self, trial: Active) -> Observation:
        """Keep of a trial what is needed later; returns what is to be seen of it."""
        self._keep(trial)
        if trial.control is not None:
            self._controls[trial.control] = trial.candidate
        if trial.reports and trial.reports[-1].rung > self._ladder.top:
            self._confirmed.add(trial.number)
        return observation(trial, self._settings, self._ladder)

    def _keep(self, trial: Active) -> None:
        if trial.state.final or trial.number in self.waiting:
            self._active.pop(trial.number, None)
        else:
            self._active[trial.number] = trial

    def _see(self, seen: Observation) -> None:
        known = self.history.get(seen.trial)
        if known is not None:
            self._states[known.state] -= 1
        self._states[seen.state] += 1
        self.history.record(seen)
        self._stand(seen)

    def _stand(self, seen: Observation) -> None:
        if seen.score is not None and seen.score.violation == 0 and seen.trial not in self._front.keys:
            self._front.add(seen.score.minimised, seen.trial)

    def _point(self, trial: TrialRecord) -> Point:
        score = self.history.of(trial.number).score
        return point(
            trial.number,
            trial.candidate,
            trial.reports,
            on_front=trial.number in self._front.keys,
            control=trial.control,
            feasible=score is not None and score.violation == 0,
        )
