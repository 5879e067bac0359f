"""A search on a simulated clock: several workers at once, in one process, as fast as the answers can be looked up.

The controller, its scheduler, its samplers and its store are the same as in a search that trains. Only time differs: a
report arrives after the seconds that it names, the events of all workers happen in the order of their times, and what
the store records is simulated time. Equal seeds give equal searches.
"""

import heapq
from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import count

from hybridsearch.control.loop import Controller
from hybridsearch.errors import TrialFailure
from hybridsearch.search.scheduler import Action
from hybridsearch.trial import Evaluator, Failure, Job, Report

WORKERS = 4
"""Simulated workers where the settings name no number."""


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

    def wait_for(job: Job, rest: Iterator[Report]) -> None:
        said = _next(rest)
        seconds = said.seconds if isinstance(said, Report) else 0.0
        heapq.heappush(events, _Event(clock.now + seconds, next(numbers), job, said, rest))

    while True:
        while len(events) < workers and (job := controller.next_job()) is not None:
            controller.started(job.trial)
            wait_for(job, evaluator(job))
        if not events:
            return
        if controller.draining:
            for event in sorted(events):
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
