"""The loop of a search as events: give me a job, here is a report, this one failed. It knows no executor.

Every answer is recorded before it is given, so a controller that is killed at any line loses nothing that a worker
has reported and repeats nothing that was recorded.
"""

import time
from collections import Counter, deque
from collections.abc import Callable
from pathlib import Path

from hybridsearch.control import budget
from hybridsearch.control.confirming import confirmation
from hybridsearch.control.interrupted import CONFIRM, CONFIRMING
from hybridsearch.control.ledger import Ledger
from hybridsearch.control.places import Places
from hybridsearch.control.proposer import Plan, Proposer
from hybridsearch.control.snapshot import Silent, Snapshot, View, take
from hybridsearch.control.standing import merged, missing, score_of
from hybridsearch.errors import FailureReason
from hybridsearch.search.results import Entry
from hybridsearch.search.rungs import Ladder
from hybridsearch.search.scheduler import Action, Decision, decide, left_behind, promotion
from hybridsearch.trial import Failure, Job, Report, TrialState

__all__ = ["Controller", "Plan", "drain_flag"]

LARGER_SHARE = 2.0
"""Of a worker's cores and GPU, for a trial that ran out of memory: fewer others are beside it then."""
ONCE_MORE = {FailureReason.OUT_OF_MEMORY: 1, FailureReason.SLOW_WORKER: 1}
"""Attempts that follow a failure for these reasons; those after a lost worker are set by `workers.retries`."""
BEAT_SECONDS = 5.0
"""Time between two signs of life in the store."""
SHOW_SECONDS = 0.5
"""Time between two snapshots for the view."""


class Controller:
    """Decides what runs next and what becomes of it; call it from one thread."""

    def __init__(
        self, plan: Plan, ledger: Ledger, view: View | None = None, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._plan = plan
        self._ledger = ledger
        self._view = view or Silent()
        self._clock = clock
        self._beat = clock()
        self._shown = 0.0
        self._ladder = Ladder.of_search(plan.settings)
        self._begun = dict(ledger.interruption.begun)
        self._attempts = Counter(ledger.interruption.attempts)
        finished = [trial for trial in self._begun if ledger.record(trial).state.final]
        self._queue = deque(
            dict.fromkeys(trial for trial in (*self._begun, *ledger.unfinished) if trial not in finished)
        )
        self._unconfirmed = finished
        self._out: set[int] = set()
        self._confirming: set[int] = set()
        self._unconfirmable: set[int] = set()
        self._draining = False
        self._drain_told = False
        self._proposer = Proposer(plan, ledger, lambda: self.spent)

    # what an executor asks

    def next_job(self) -> Job | None:
        """The next trial to run: interrupted ones first, then controls, promoted ones, and the sampler's.

        None: nothing for now. Once nothing is left to run, the front is confirmed, and whoever waits at a rung stopped.

        Raises:
            Infeasible: the space, or the constraints, leave nothing to try.
        """
        if self._draining:
            return None
        if self._queue:
            return self._job(self._queue.popleft())
        number = None if self._proposer.controls_left else self._promoted()
        if number is None:
            number = self._proposer.new_trial()
        if number is not None:
            return self._job(number)
        if (again := self._to_confirm()) is not None:
            return self._confirmation(again)
        if self.finished:
            self._leave_behind()
        return None

    @property
    def finished(self) -> bool:
        """Whether no job is out and none will follow."""
        if self._out or self._draining:
            return not self._out
        return self._settled and self._to_confirm() is None

    @property
    def out(self) -> frozenset[int]:
        """Trials that a worker has."""
        return frozenset(self._out)

    # what an executor tells

    def started(self, trial: int) -> None:
        """A worker has taken the job."""
        if trial not in self._confirming and self._ledger.state(trial) is not TrialState.RUNNING:
            self._ledger.started(trial)

    def begun(self, trial: int) -> float | None:
        """When the work that a job goes on with was begun, in the store's time; none if it begins. Asked for once."""
        return self._begun.pop(trial, None)

    def report(self, report: Report) -> Action:
        """Record a report, and say whether the trial goes on. A report that is known already changes nothing."""
        trial = report.trial
        if trial in self._confirming:
            self._put_down(trial)
            self._ledger.confirmed(trial, report)
            return Action.FINISH
        if self._ledger.state(trial).final:
            return Action.STOP
        known = self._ledger.record(trial)
        if any(report.rung == earlier.rung for earlier in known.reports):
            return Action.CONTINUE
        final = self._ladder.is_last(report.rung)
        gathered = [*known.reports, report]
        lacking = missing(self._plan.settings, merged(gathered), final=final)
        if lacking:
            self.failed(
                Failure(trial=trial, reason=FailureReason.NOT_A_NUMBER, message=f"rung {report.rung}: {lacking}")
            )
            return Action.STOP
        score = score_of(self._plan.settings, gathered, final=final)
        own = Entry(trial=trial, score=score, control=known.control is not None)
        decision = decide(self._ledger.history.results(report.rung), own, report.rung, self._ladder)
        self._ledger.reached(report, score, decision)
        if decision.action is not Action.CONTINUE:
            self._out.discard(trial)
        return decision.action

    def failed(self, failure: Failure) -> None:
        """Record a failure, or let the trial come again.

        It comes again a bounded number of times, over all resumes: if its worker was lost, once with a larger share of
        the machine if it ran out of memory, and once if its worker was slow, which is no failure.
        """
        trial = failure.trial
        if trial in self._confirming:
            self._unconfirmable.add(trial)
            self._ledger.note(CONFIRM, f"trial {trial} could not be measured again: {failure.message}", trial)
        self._put_down(trial)
        if self._ledger.state(trial).final:
            return
        if not self.comes_again(trial, failure.reason):
            self._ledger.failed(failure)
            return
        self._attempts[trial, failure.reason] += 1
        follows = f"attempt {self._attempts[trial, failure.reason] + 1}"
        if failure.reason is FailureReason.OUT_OF_MEMORY:
            follows = f"another attempt with {LARGER_SHARE:g} times the share of the machine"
        self._ledger.waits_again(failure, follows)
        self._queue.append(trial)

    def comes_again(self, trial: int, reason: FailureReason) -> bool:
        """Whether the trial goes back to the queue, should it fail for this reason now."""
        if trial in self._confirming:
            return False
        most = {FailureReason.WORKER_LOST: self._plan.settings.workers.retries, **ONCE_MORE}
        return self._attempts[trial, reason] < most.get(reason, 0)

    def paused(self, trial: int) -> None:
        """The trial has put down its work for a later resume."""
        confirming = trial in self._confirming
        self._put_down(trial)
        if not confirming:
            self._ledger.paused(trial)

    def drain(self) -> None:
        """Ask for a drain: nothing new is proposed, and workers put down what they have with a checkpoint.

        Safe inside a signal handler: the store hears of it at the next `tick`.
        """
        self._draining = True

    @property
    def draining(self) -> bool:
        """Whether a drain was asked for."""
        return self._draining

    def tick(self) -> None:
        """Give a sign of life to the store and to the view; call it often."""
        now = self._clock()
        if self._draining and not self._drain_told:
            self._drain_told = True
            drain_flag(self._plan.places, self._ledger.study).touch()
            self._ledger.note("drain", "no new trials; running ones put down their work and can be resumed")
        if now - self._shown >= SHOW_SECONDS:
            self._shown = now
            self._view.snapshot(self.snapshot())
        if now - self._beat >= BEAT_SECONDS:
            self._ledger.beat(now - self._beat)
            self._beat = now

    def close(self) -> None:
        """Count the last seconds."""
        self._ledger.beat(self._clock() - self._beat)
        self._beat = self._clock()

    # how it stands

    @property
    def spent(self) -> budget.Spent:
        """What the search has used of its budget."""
        seconds = self._ledger.elapsed + self._clock() - self._beat
        return budget.Spent(trials=self._ledger.counted, minutes=seconds / 60)

    def snapshot(self) -> Snapshot:
        """How the search stands now."""
        return take(self._ledger, self.spent, budget.share(self._plan.settings.budget, self.spent))

    # who runs next

    @property
    def _settled(self) -> bool:
        """Whether nothing is left but to confirm the front."""
        busy = self._queue or self._out - self._confirming
        return not busy and self._proposer.over() and self._promotable() is None

    def _to_confirm(self) -> int | None:
        """A member of the front that has to be measured again, once the search itself is over."""
        if not self._plan.settings.confirm or not self._settled:
            return None
        tried = self._confirming | self._unconfirmable
        candidates = (*self._unconfirmed, *self._ledger.unconfirmed)
        return next((trial for trial in candidates if trial not in tried), None)

    def _confirmation(self, trial: int) -> Job:
        self._confirming.add(trial)
        if trial in self._unconfirmed:
            self._unconfirmed.remove(trial)
        else:
            self._ledger.note(CONFIRMING, f"trial {trial} is measured again, with further seeds", trial)
        return confirmation(self._job(trial), self._ledger.record(trial), self._plan.settings)

    def _put_down(self, trial: int) -> None:
        self._out.discard(trial)
        self._confirming.discard(trial)

    def _promotable(self) -> tuple[int, Decision] | None:
        """Who should go on now; nobody once the time is spent."""
        if not self._ledger.waiting or budget.out_of_time(self._plan.settings.budget, self.spent):
            return None
        return promotion(self._ledger.history, self._ladder, self._ledger.waiting)

    def _promoted(self) -> int | None:
        found = self._promotable()
        if found is None:
            return None
        self._ledger.promoted(*found)
        return found[0]

    def _leave_behind(self) -> None:
        """Stop those that wait at a rung: nobody will come who could let them go on."""
        for trial in sorted(self._ledger.waiting):
            self._ledger.left_behind(trial, left_behind(self._ledger.history, trial, self._ladder))

    def _job(self, number: int) -> Job:
        self._out.add(number)
        settings = self._plan.settings
        record = self._ledger.record(number)
        reached = max((report.rung for report in record.reports), default=None)
        return Job(
            study=self._ledger.study,
            trial=number,
            hash=record.candidate.hash,
            architecture=record.candidate.canonical,
            seed=record.seed,
            rungs=self._ladder.remaining(reached),
            evaluation=settings.evaluation.model_dump_json(),
            folder=str(self._plan.places.trial(self._ledger.study, number)),
            timeout_seconds=settings.workers.timeout_minutes * 60,
            share=LARGER_SHARE if self._attempts[number, FailureReason.OUT_OF_MEMORY] else 1.0,
        )


def drain_flag(places: Places, study: str) -> Path:
    """The file whose presence asks workers to put down their work."""
    return places.study(study) / "drain"
