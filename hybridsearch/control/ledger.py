"""One study's trials while its search runs: the store first, then what samplers see, then MLflow and the screen.

The store is the truth and everything else is derived from it: a new ledger is the same as the one before a crash. What
is done to a trial is recorded first, and then followed in memory without reading it again. Only the controller's
process has a ledger.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import replace

from hybridsearch.control.active import Active
from hybridsearch.control.candidates import NewTrial
from hybridsearch.control.confirming import pooled
from hybridsearch.control.interrupted import CONFIRM, comes_again, interruption
from hybridsearch.control.observing import moved
from hybridsearch.control.standing import empty_front
from hybridsearch.control.trials import Trials
from hybridsearch.db.records import TrialRecord
from hybridsearch.db.store import Event, Store
from hybridsearch.objectives import Score
from hybridsearch.reporting.reporter import Reporter
from hybridsearch.search.scheduler import Action, Decision
from hybridsearch.settings import SearchSettings
from hybridsearch.trial import Failure, Report, TrialState

Listener = Callable[[Event], None]
"""Hears every event after it was recorded."""

RESTS = {Action.FINISH: TrialState.FINISHED, Action.STOP: TrialState.STOPPED, Action.PAUSE: TrialState.PAUSED}


class Ledger(Trials):
    """The trials of one study, written through to the store."""

    def __init__(
        self, store: Store, study: str, settings: SearchSettings, reporter: Reporter, listener: Listener
    ) -> None:
        record = store.study(study)
        super().__init__(store, study, settings)
        self.elapsed = record.elapsed
        """Seconds of search so far, over all resumes."""
        self.interruption = interruption(store, study, self.unfinished, confirms=bool(settings.confirm))
        """What the search was doing when it was interrupted."""
        self._digest = record.evaluation_digest
        self._reporter = reporter
        self._listener = listener

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
        known = self.record(report.trial)
        self._store.record(self.study, report, state=state, event=event)
        self._reporter.rung(report.trial, report, decision.reason)
        if state is TrialState.PAUSED:
            self.waiting.add(report.trial)
        self._keep(replace(known, state=state or known.state, reports=(*known.reports, report)))
        seen = self.history.of(report.trial)
        self._see(moved(seen, state or known.state, (report.rung, score), report.seconds))
        self._listener(event)
        if state is not None and state.final:
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
        known = self.record(trial)
        report = pooled(known.reports[-1], further, self._ladder.top + 1)
        spread = f"{self._settings.confirm} further seeds; recall {report.metrics.get('recall', math.nan):.3f} over all"
        event = Event(kind=CONFIRM, message=spread, trial=trial, rung=report.rung)
        self._store.record(self.study, report, event=event)
        self._reporter.rung(trial, report, spread)
        self._see(self._learn(replace(known, reports=(*known.reports, report))))
        self._front, self._shown = empty_front(self._settings), {}
        for seen in self.history.finished:
            self._stand(seen)
        self._listener(event)
        self._tell_front()

    def failed(self, failure: Failure) -> None:
        """Record the end of a trial by a failure."""
        self._store.set_state(
            self.study, failure.trial, TrialState.FAILED, reason=failure.reason, message=failure.message
        )
        self._reasons[failure.reason] += 1
        self._change(failure.trial, TrialState.FAILED)
        said = f"{failure.reason}: {failure.message}"
        self._listener(Event(kind=TrialState.FAILED.value, message=said, trial=failure.trial))
        self._ended(failure.trial, TrialState.FAILED, said)

    def waits_again(self, failure: Failure, follows: str) -> None:
        """Record that a trial goes back to the queue, and how it will come again."""
        message = comes_again(failure, follows)
        if self.state(failure.trial) is TrialState.WAITING:  # its worker was lost before it had begun
            self.note(TrialState.WAITING.value, message, failure.trial)
        else:
            self._move(failure.trial, TrialState.WAITING, message)

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
        for batch in self._store.batches(self.study):
            for trial in batch:
                if not trial.state.final:
                    self._reporter.trial_reopened(trial.number)
                self._tell(trial)
                for report in trial.reports:
                    self._reporter.rung(trial.number, report, "")
                if trial.state.final:
                    on_front = trial.number in self._front.keys
                    self._reporter.trial_ended(trial.number, trial.state, trial.message, on_front=on_front)

    # how it is kept

    def _insert(self, new: NewTrial, state: TrialState, note: str) -> Active:
        record = self._store.add_trial(
            self.study,
            new.candidate,
            sampler=new.sampler,
            seed=new.seed,
            parents=new.parents,
            state=state,
            control=new.control,
            note=note,
        )
        trial = Active.of(record)
        self._see(self._learn(trial))
        self._tell(record)
        self._listener(Event(kind=state.value, message=note or f"proposed by {new.sampler}", trial=trial.number))
        return trial

    def _tell(self, trial: TrialRecord) -> None:
        tags = {"sampler": trial.sampler, "seed": str(trial.seed), "parents": ",".join(map(str, trial.parents))}
        control = {"control": trial.control} if trial.control else {}
        self._reporter.trial_started(trial.number, trial.candidate, tags | control)

    def _tell_front(self) -> None:
        finished = self._states[TrialState.FINISHED]
        self._reporter.front_changed(self.points, self._front.keys, self.hypervolume, finished, self.elapsed)

    def _adopt(self, trial: Active, reports: Sequence[Report]) -> None:
        """Finish a trial with the reports that its candidate has earned elsewhere."""
        said = "same architecture and evaluation as a finished trial: its numbers are taken over"
        owned = tuple(replace(report, trial=trial.number, seconds=0.0) for report in reports)
        for own in owned:
            event = Event(kind="cached", message=said, trial=trial.number, rung=own.rung)
            state = TrialState.FINISHED if own.rung == self._ladder.top else None
            self._store.record(self.study, own, state=state, event=event)
            self._reporter.rung(trial.number, own, said)
        self._see(self._learn(replace(trial, state=TrialState.FINISHED, reports=owned)))
        self._listener(Event(kind="cached", message=said, trial=trial.number))
        self._ended(trial.number, TrialState.FINISHED, said)

    def _move(self, trial: int, state: TrialState, message: str) -> None:
        self._store.set_state(self.study, trial, state, message=message)
        self._change(trial, state)
        self._listener(Event(kind=state.value, message=message, trial=trial))

    def _leave_rung(self, trial: int, state: TrialState, kind: str, decision: Decision) -> None:
        event = Event(kind=kind, message=decision.reason, trial=trial, rung=decision.rung, rank=decision.rank)
        self._store.set_state(self.study, trial, state, message=decision.reason, event=event)
        self.waiting.discard(trial)
        self._change(trial, state)
        self._listener(event)

    def _ended(self, trial: int, state: TrialState, reason: str) -> None:
        on_front = trial in self._front.keys
        self._reporter.trial_ended(trial, state, reason, on_front=on_front)
        if on_front:
            self._tell_front()
