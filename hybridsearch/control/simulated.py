"""A search on a simulated clock: several workers at once, in one process, as fast as the answers can be looked up.

The controller, its scheduler, its samplers and its store are the same as in a search that trains. Only time differs: a
report arrives after the seconds that it names, the events of all workers happen in the order of their times, and what
the store records is simulated time. Equal seeds give equal searches, killed and resumed ones included: a trial that was
under way goes on as if it had never been interrupted.
"""

import heapq
from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import count
from operator import attrgetter

from hybridsearch.control.loop import Controller
from hybridsearch.errors import TrialFailure
from hybridsearch.search.scheduler import Action
from hybridsearch.trial import Evaluator, Failure, Job, Report

WORKERS = 4
"""Simulated workers where the settings name no number."""
TICKS = 2.0**20
"""A second, in units of simulated time. Unix seconds of today have a resolution of 2**-22 s, so that the sum of `epoch`
and a whole number of units is exact, and a resumed search finds the very times of the one that was killed."""


@dataclass(slots=True)
class Clock:
    """Simulated time of one search; `epoch` is the real time, in Unix seconds, at which it stood at 0."""

    epoch: float
    now: float = 0.0

    def __call__(self) -> float:
        """Seconds of search."""
        return self.now

    def stamp(self) -> float:
        """Unix seconds, as the store records them."""
        return self.epoch + self.now

    def after(self, seconds: float, begun: float | None) -> float:
        """When work of so many seconds is over that began at `begun`, in Unix seconds (now, if none)."""
        start = self.now if begun is None else begun - self.epoch
        return max(self.now, start + round(seconds * TICKS) / TICKS)


@dataclass(order=True, slots=True)
class _Event:
    """What a worker will say, and when."""

    time: float
    order: int
    job: Job = field(compare=False)
    said: Report | TrialFailure = field(compare=False)
    rest: Iterator[Report] = field(compare=False)


def run(controller: Controller, evaluator: Evaluator, workers: int, clock: Clock) -> None:
    """Run until the controller has nothing more to propose. A drain puts all running trials down at once.

    Args:
        controller: made with the same clock.
        evaluator: gives reports at once, with their seconds.
        workers: trials at once.
        clock: is moved from event to event.
    """
    events: list[_Event] = []
    numbers = count()

    def wait_for(job: Job, rest: Iterator[Report], begun: float | None = None) -> None:
        said = _next(rest)
        seconds = said.seconds if isinstance(said, Report) else 0.0
        heapq.heappush(events, _Event(clock.after(seconds, begun), next(numbers), job, said, rest))

    while True:
        while len(events) < workers and (job := controller.next_job()) is not None:
            controller.started(job.trial)
            wait_for(job, evaluator(job), controller.begun(job.trial))
        if not events:
            return
        if controller.draining:
            for event in sorted(events, key=attrgetter("order")):
                controller.paused(event.job.trial)
            controller.tick()
            return
        event = heapq.heappop(events)
        clock.now = event.time
        if isinstance(event.said, TrialFailure):
            controller.failed(Failure(trial=event.job.trial, reason=event.said.reason, message=str(event.said)))
        elif controller.report(event.said) is Action.CONTINUE:
            wait_for(event.job, event.rest)
        controller.tick()


def _next(rest: Iterator[Report]) -> Report | TrialFailure:
    """The next thing that a worker says; it says nothing more only after its last rung."""
    try:
        return next(rest)
    except TrialFailure as failure:
        return failure
