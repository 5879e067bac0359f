"""What a search was doing when it was interrupted, and how often its trials had come again: read from its events."""

from collections import Counter
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field, replace

from hybridsearch.db.store import EventRecord, Store
from hybridsearch.errors import FailureReason
from hybridsearch.search.scheduler import Action
from hybridsearch.trial import Failure, TrialState

CONFIRMING = "confirming"
"""Kind of the event that a finished trial is being measured again."""
CONFIRM = "confirm"
"""Kind of the event that it was, or could not be."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Interruption:
    """Where a resumed search goes on; empty for one that begins."""

    begun: Mapping[int, float] = field(default_factory=dict)
    """When work on a trial since its last report began, in Unix seconds, in the order of beginning. Time in which a
    drain had put it down is left out. Only a simulated clock makes sense of it: a machine trains nothing while it is
    down."""
    attempts: Mapping[tuple[int, FailureReason], int] = field(default_factory=dict)
    """How often a trial has gone back to the queue, by trial and reason."""


@dataclass(frozen=True, slots=True)
class _Mark:
    """Work that was begun, and when it was put down."""

    since: float
    down: float | None = None


def interruption(store: Store, study: str, unfinished: Collection[int], *, confirms: bool) -> Interruption:
    """How a study was interrupted.

    Args:
        store: that holds it.
        study: name.
        unfinished: numbers of the trials that have to run yet.
        confirms: whether the study measures its front again.
    """
    if not unfinished and not confirms:
        return Interruption()
    # A confirmation gets the share of the machine that its trial has needed.
    kinds = (CONFIRMING, CONFIRM, TrialState.WAITING.value) if confirms else ()
    events = store.events_of(study, unfinished, kinds)
    newest = store.events(study, limit=1, newest=True)
    return Interruption(begun=_begun(events, newest[0].time if newest else 0.0), attempts=_attempts(events))


def comes_again(failure: Failure, follows: str) -> str:
    """What is recorded when a trial goes back to the queue; attempts are counted by what stands before the colon."""
    return f"{failure.reason}: {failure.message}; {follows} follows"


def _attempts(events: Iterable[EventRecord]) -> Counter[tuple[int, FailureReason]]:
    found: Counter[tuple[int, FailureReason]] = Counter()
    for event in events:
        reason = event.message.partition(": ")[0]
        if event.trial is not None and event.kind == TrialState.WAITING and reason in list(FailureReason):
            found[event.trial, FailureReason(reason)] += 1
    return found


def _begun(events: Iterable[EventRecord], now: float) -> dict[int, float]:
    marks: dict[int, _Mark] = {}
    for event in events:
        if event.trial is None:
            continue
        mark = marks.get(event.trial)
        if event.kind in (TrialState.RUNNING, CONFIRMING):
            waited = 0.0 if mark is None or mark.down is None else event.time - mark.down
            marks[event.trial] = _Mark(event.time if mark is None else mark.since + waited)
        elif event.kind == TrialState.PAUSED and event.rung is None and mark is not None:
            marks[event.trial] = replace(mark, down=event.time)
        else:
            marks.pop(event.trial, None)
            if event.kind == Action.CONTINUE:  # the way to the next rung begins, behind what others have begun
                marks[event.trial] = _Mark(event.time)
    return {trial: m.since if m.down is None else m.since + now - m.down for trial, m in marks.items()}
