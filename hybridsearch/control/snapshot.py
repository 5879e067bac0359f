"""What a screen needs of a running search, as a value: no view ever reads the ledger while it changes."""

from dataclasses import dataclass
from typing import Protocol

from hybridsearch.control.budget import Spent
from hybridsearch.control.ledger import Ledger
from hybridsearch.db.store import Event
from hybridsearch.reporting.points import Point


@dataclass(frozen=True, slots=True, kw_only=True)
class Running:
    """A trial that a worker has."""

    trial: int
    name: str
    rung: int
    """Rung it is climbing to."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Snapshot:
    """A running search at one moment."""

    study: str
    counts: dict[str, int]
    """Trials by state; failed ones by reason, e.g. `failed: out of memory`."""
    running: tuple[Running, ...]
    front: tuple[Point, ...]
    hypervolume: float
    spent: Spent
    share: float
    """Used part of the budget, 0 to 1."""
    seconds: float
    """Search time over all resumes."""


class View(Protocol):
    """Shows a search; hears every event once, and a snapshot about once a second."""

    def event(self, event: Event) -> None:
        """Something was decided or noticed, and is recorded."""

    def snapshot(self, snapshot: Snapshot) -> None:
        """How the search stands."""


class Silent:
    """Shows nothing."""

    def event(self, event: Event) -> None:
        """Nothing."""

    def snapshot(self, snapshot: Snapshot) -> None:
        """Nothing."""


def take(ledger: Ledger, spent: Spent, share: float) -> Snapshot:
    """The snapshot of a ledger."""
    return Snapshot(
        study=ledger.study,
        counts=ledger.labels(),
        running=tuple(Running(trial=t.number, name=t.candidate.name, rung=len(t.reports)) for t in ledger.running),
        front=tuple(ledger.front_points()),
        hypervolume=ledger.hypervolume,
        spent=spent,
        share=share,
        seconds=spent.minutes * 60,
    )
