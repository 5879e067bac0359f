"""One study's trials while its search runs: the store first, then what samplers see, then MLflow and the screen.

The store is the truth and everything else here is derived from it: `Ledger.open` rebuilds the same ledger after a
crash. Only the controller's process has one.
"""

import math
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import replace

from hybridsearch.control.candidates import NewTrial
from hybridsearch.control.confirming import pooled
from hybridsearch.control.interrupted import CONFIRM, comes_again, interruption
from hybridsearch.control.observing import observation
from hybridsearch.control.standing import empty_front
from hybridsearch.db.records import TrialRecord
from hybridsearch.db.store import Event, Store
from hybridsearch.objectives import Score
from hybridsearch.reporting.points import Point, point
from hybridsearch.reporting.reporter import Reporter
from hybridsearch.search.history import History, Observation
from hybridsearch.search.rungs import Ladder
from hybridsearch.search.scheduler import Action, Decision
from hybridsearch.settings import SearchSettings
from hybridsearch.trial import Candidate, Failure, Report, TrialState

Listener = Callable[[Event], None]
"""Hears every event after it was recorded."""

RESTS = {Action.FINISH: TrialState.FINISHED, Action.STOP: TrialState.STOPPED, Action.PAUSE: TrialState.PAUSED}


class Ledger:
    """The trials of one study, written through to the store."""

    def __init__(
        self, store: Store, study: str, settings: SearchSettings, reporter: Reporter, listener: Listener
    ) -> None:
        record = store.study(study)
        self.study = study
        self.elapsed = record.elapsed
        """Seconds of search so far, over all resumes."""
        self.history = History()
        self._store = store
        self._settings = settings
        self._digest = record.evaluation_digest
        self._reporter = reporter
        self._listener = listener
        self._ladder = Ladder.of_search(settings)
        self._front = empty_front(settings)
        self._trials: dict[int, TrialRecord] = {}
        self._controls: dict[str, Candidate] = {}
        self._states: Counter[TrialState] = Counter()
        self.waiting = store.waiting_at_rung(study)
        """Trials that pause at a rung and may be promoted."""
        for trial in sorted(store.trials(study), key=lambda t: (t.ended or 0.0, t.number)):
            self._remember(trial)
        self.interruption = interruption(store, study, self.unfinished, confirms=bool(settings.confirm))
        """What the search was doing when it was interrupted."""

    # what is known

    @property
    def trials(self) -> list[TrialRecord]:
        """All trials, by number."""
        return [self._trials[number] for number in sorted(self._trials)]

    @property
    def unfinished(self) -> list[int]:
        """Trials that still have to run, by number; those that wait at a rung may never have to."""
        return [t.number for t in self.trials if not t.state.final and t.number not in self.waiting]

    @property
    def next_number(self) -> int:
        """Number of the next trial."""
        return len(self._trials)

    @property
    def counted(self) -> int:
        """Trials that count for the budget: all but controls and screened ones."""
        return len(self._trials) - len(self._controls) - self._states[TrialState.SCREENED]

    @property
    def controls(self) -> dict[str, Candidate]:
        """Controls that were recorded, by name."""
        return dict(self._controls)

    @property
    def unconfirmed(self) -> list[int]:
        """Trials on the front that were not measured again, by the first objective."""
        return [n for n, _ in self._front.members if self._trials[n].reports[-1].rung <= self._ladder.top]

    @property
    def hypervolume(self) -> float:
        """Hypervolume of the front so far."""
        return self._front.hypervolume

    def counts(self) -> dict[TrialState, int]:
        """Trials in each state, zeros included."""
        return {state: self._states[state] for state in TrialState}

    def record(self, trial: int) -> TrialRecord:
        """A trial as it stands."""
        return self._trials[trial]

    def points(self) -> list[Point]:
        """All finished trials, as figures and tables show them."""
        return [self._point(trial) for trial in self.trials if trial.state is TrialState.FINISHED]

    def front_points(self) -> list[Point]:
        """The points on the front, by the first objective."""
        return [self._point(self._trials[number]) for number, _ in self._front.members]

    # what happens

    def add(self, new: NewTrial) -> int:
        """Record a new trial; if a finished trial of any study has its numbers already, it is finished at once."""
        trial = self._insert(new, TrialState.WAITING, "")
        reports = self._store.cached_reports(new.candidate.hash, self._digest) if self._digest else ()
        if reports:
            self._adopt(trial, reports)
        return trial.number

    def screened(self, new: NewTrial, reason: str) -> None:
        """Record a candidate that a constraint turned down."""
        trial = self._insert(new, TrialState.SCREENED, reason)
        self._reporter.trial_ended(trial.number, TrialState.SCREENED, reason, on_front=False)

    def started(self, trial: int) -> None:
        """A worker has the trial."""
        self._move(trial, TrialState.RUNNING, "")

    def reached(self, report: Report, score: Score, decision: Decision) -> None:
        """Record a report with the decision on it."""
        state = RESTS.get(decision.action)
        event = Event(
            kind=(state or decision.action).value,
            message=decision.reason,
            trial=report.trial,
            rung=report.rung,
            rank=decision.rank,
        )
        self._store.record(self.study, report, state=state, event=event)
        self._reporter.rung(report.trial, report, decision.reason)
        self._refresh(report.trial)
        self._listener(event)
        if state is TrialState.PAUSED:
            self.waiting.add(report.trial)
        elif state is not None:
            self._ended(report.trial, state, decision.reason)

    def promoted(self, trial: int, decision: Decision) -> None:
        """Record that a trial which waited at a rung goes on."""
        self._leave_rung(trial, TrialState.WAITING, decision.action.value, decision)

    def left_behind(self, trial: int, decision: Decision) -> None:
        """Record the end of a trial that waited at a rung until the search was over."""
        self._leave_rung(trial, TrialState.STOPPED, TrialState.STOPPED.value, decision)
        self._ended(trial, TrialState.STOPPED, decision.reason)

    def confirmed(self, trial: int, further: Report) -> None:
        """Record that a finished trial was measured again with further seeds: it may leave the front, or be joined."""
        report = pooled(self._trials[trial].reports[-1], further, self._ladder.top + 1)
        spread = f"{self._settings.confirm} further seeds; recall {report.metrics.get('recall', math.nan):.3f} over all"
        event = Event(kind=CONFIRM, message=spread, trial=trial, rung=report.rung)
        self._store.record(self.study, report, event=event)
        self._reporter.rung(trial, report, spread)
        self._refresh(trial)
        self._front = empty_front(self._settings)
        for seen in self.history.finished:
            self._stand(seen)
        self._listener(event)
        finished = self.points()
        self._reporter.front_changed(finished, self.hypervolume, len(finished), self.elapsed)

    def failed(self, failure: Failure) -> None:
        """Record the end of a trial by a failure."""
        self._store.set_state(
            self.study, failure.trial, TrialState.FAILED, reason=failure.reason, message=failure.message
        )
        self._refresh(failure.trial)
        said = f"{failure.reason}: {failure.message}"
        self._listener(Event(kind=TrialState.FAILED.value, message=said, trial=failure.trial))
        self._ended(failure.trial, TrialState.FAILED, said)

    def waits_again(self, failure: Failure, follows: str) -> None:
        """Record that a trial goes back to the queue, and how it will come again."""
        self._move(failure.trial, TrialState.WAITING, comes_again(failure, follows))

    def paused(self, trial: int) -> None:
        """Record that a trial has put down its work."""
        self._move(trial, TrialState.PAUSED, "its checkpoint waits for a resume")
        self._reporter.trial_ended(trial, TrialState.PAUSED, "interrupted", on_front=False)

    def note(self, kind: str, message: str, trial: int | None = None) -> None:
        """Record an event of the whole search, or about one trial."""
        event = Event(kind=kind, message=message, trial=trial)
        self._store.add_event(self.study, event)
        self._listener(event)

    def beat(self, seconds: float) -> None:
        """Add search time and give a sign of life."""
        self.elapsed = self._store.heartbeat(self.study, seconds)

    def retell(self) -> None:
        """Tell the reporter every trial again: it fills in what a crash kept from it, and repeats nothing."""
        for trial in self.trials:
            self._tell(trial)
            for report in trial.reports:
                self._reporter.rung(trial.number, report, "")
            if trial.state.final:
                on_front = trial.number in self._front.keys
                self._reporter.trial_ended(trial.number, trial.state, trial.message, on_front=on_front)

    # how it is kept

    def _insert(self, new: NewTrial, state: TrialState, note: str) -> TrialRecord:
        trial = self._store.add_trial(
            self.study,
            new.candidate,
            sampler=new.sampler,
            seed=new.seed,
            parents=new.parents,
            state=state,
            control=new.control,
            note=note,
        )
        self._remember(trial)
        self._tell(trial)
        self._listener(Event(kind=state.value, message=note or f"proposed by {new.sampler}", trial=trial.number))
        return trial

    def _tell(self, trial: TrialRecord) -> None:
        tags = {"sampler": trial.sampler, "seed": str(trial.seed), "parents": ",".join(map(str, trial.parents))}
        control = {"control": trial.control} if trial.control else {}
        self._reporter.trial_started(trial.number, trial.candidate, tags | control)

    def _adopt(self, trial: TrialRecord, reports: Sequence[Report]) -> None:
        """Finish a trial with the reports that its candidate has earned elsewhere."""
        said = "same architecture and evaluation as a finished trial: its numbers are taken over"
        for report in reports:
            own = replace(report, trial=trial.number, seconds=0.0)
            last = self._ladder.is_last(report.rung)
            event = Event(kind="cached", message=said, trial=trial.number, rung=report.rung)
            self._store.record(self.study, own, state=TrialState.FINISHED if last else None, event=event)
            self._reporter.rung(trial.number, own, said)
        self._refresh(trial.number)
        self._listener(Event(kind="cached", message=said, trial=trial.number))
        self._ended(trial.number, TrialState.FINISHED, said)

    def _move(self, trial: int, state: TrialState, message: str) -> None:
        self._store.set_state(self.study, trial, state, message=message)
        self._refresh(trial)
        self._listener(Event(kind=state.value, message=message, trial=trial))

    def _ended(self, trial: int, state: TrialState, reason: str) -> None:
        on_front = trial in self._front.keys
        self._reporter.trial_ended(trial, state, reason, on_front=on_front)
        if on_front:
            finished = self.points()
            self._reporter.front_changed(finished, self.hypervolume, len(finished), self.elapsed)

    def _leave_rung(self, trial: int, state: TrialState, kind: str, decision: Decision) -> None:
        event = Event(kind=kind, message=decision.reason, trial=trial, rung=decision.rung, rank=decision.rank)
        self._store.set_state(self.study, trial, state, message=decision.reason, event=event)
        self.waiting.discard(trial)
        self._refresh(trial)
        self._listener(event)

    def _refresh(self, trial: int) -> None:
        self._remember(self._store.trial(self.study, trial))

    def _remember(self, trial: TrialRecord) -> None:
        if trial.number in self._trials:
            self._states[self._trials[trial.number].state] -= 1
        self._states[trial.state] += 1
        if trial.control is not None:
            self._controls[trial.control] = trial.candidate
        self._trials[trial.number] = trial
        seen = observation(trial, self._settings, self._ladder)
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
