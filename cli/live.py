"""A running search on standard error: a live screen on a terminal, one plain line per event anywhere else."""

import time
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import datetime
from typing import TYPE_CHECKING, Any

from hybridsearch.cli import show

if TYPE_CHECKING:
    from rich.console import RenderableType
    from rich.table import Table
    from rich.text import Text

    from hybridsearch.control.snapshot import Snapshot, View
    from hybridsearch.db.store import Event
    from hybridsearch.settings import SearchSettings

FRONT_ROWS = 8
RUNNING_ROWS = 6
EVENT_ROWS = 5
PROGRESS_SECONDS = 60.0
"""Between two lines of progress where there is no screen."""
SPARKS = "▁▂▃▄▅▆▇█"
SPARK_WIDTH = 24
UNSHOWN = ("waiting", "running", "continue")
"""Events that the rest of the screen shows already."""


@contextmanager
def view(study: str, settings: "SearchSettings", *, quiet: bool) -> "Iterator[View]":
    """The view that fits standard error, for as long as the search runs."""
    console = show.console(error=True)
    if quiet:
        from hybridsearch.control.snapshot import Silent

        yield Silent()
    elif not console.is_terminal:
        show.note(f"{_clock()} search {study}: {_beginning(settings)}")
        yield Lines(settings)
    else:
        from rich.live import Live

        screen = Screen(study, settings)
        with Live(get_renderable=screen.render, console=console, refresh_per_second=4, transient=True):
            yield screen


class Lines:
    """One plain line per event, and one a minute on how far the search is."""

    def __init__(self, settings: "SearchSettings", clock: Callable[[], float] = time.monotonic) -> None:
        self._settings = settings
        self._clock = clock
        self._told = clock()

    def event(self, event: "Event") -> None:
        """Print it."""
        if event.message:
            trial = "" if event.trial is None else f" #{event.trial}"
            show.note(f"{_clock()}{trial} {event.kind}: {event.message}")

    def snapshot(self, snapshot: "Snapshot") -> None:
        """Print its numbers, if a minute has gone by; all else that changes is an event."""
        if self._clock() - self._told < PROGRESS_SECONDS:
            return
        self._told = self._clock()
        states = ", ".join(f"{count} {label}" for label, count in sorted(snapshot.counts.items()))
        said = f"{_budget(self._settings, snapshot)}; {states}; hypervolume {show.number(snapshot.hypervolume)}"
        show.note(f"{_clock()} progress: {said}")


class Screen:
    """The live screen; rich asks for it four times a second, from a thread of its own."""

    def __init__(self, study: str, settings: "SearchSettings") -> None:
        self._study = study
        self._settings = settings
        self._began = time.monotonic()
        self._snapshot: Snapshot | None = None
        self._taken = 0.0
        self._events: deque[tuple[str, Event]] = deque(maxlen=EVENT_ROWS)
        self._volumes: list[float] = []
        self._finished = -1
        self._draining = False

    def event(self, event: "Event") -> None:
        """Keep it, if it is news."""
        self._draining = self._draining or event.kind == "drain"
        if event.kind not in UNSHOWN and event.message:
            self._events.append((_clock(), event))

    def snapshot(self, snapshot: "Snapshot") -> None:
        """Show it from now on."""
        finished = snapshot.counts.get("finished", 0)
        if finished != self._finished:
            self._finished = finished
            self._volumes.append(snapshot.hypervolume)
        self._snapshot, self._taken = snapshot, time.monotonic()

    def render(self) -> "RenderableType":
        """The screen as it stands."""
        from rich.console import Group
        from rich.text import Text

        snapshot = self._snapshot
        if snapshot is None:
            waited = show.duration(time.monotonic() - self._began)
            return Group(Text(f"{self._study}: {_beginning(self._settings)}, {waited}", style="bold"), *self._news())
        parts: list[RenderableType] = [self._header(snapshot), self._states(snapshot), self._volume(snapshot)]
        parts += self._front(snapshot)
        parts += self._running(snapshot)
        return Group(*parts, *self._news())

    def _header(self, snapshot: "Snapshot") -> "Text":
        from rich.text import Text

        elapsed = snapshot.seconds + time.monotonic() - self._taken
        filled = round(16 * snapshot.share)
        workers = len(snapshot.running)
        text = Text(self._study, style="bold")
        text.append(f"  {show.duration(elapsed)}  ", style="not bold")
        text.append("━" * filled, style="green")
        text.append("━" * (16 - filled), style="bright_black")
        text.append(f" {_budget(self._settings, snapshot)}  {workers} busy", style="not bold")
        if self._draining:
            text.append("\nputting down the running trials; Ctrl-C again stops at once", style="yellow")
        return text

    def _states(self, snapshot: "Snapshot") -> "Text":
        from rich.text import Text

        text = Text()
        for label, count in sorted(snapshot.counts.items()):
            text.append(f"{label} ", style="bright_black")
            text.append(f"{count}   ", style="red" if label.startswith("failed") else "")
        return text

    def _volume(self, snapshot: "Snapshot") -> "Text":
        from rich.text import Text

        text = Text("hypervolume ", style="bright_black")
        text.append(f"{show.number(snapshot.hypervolume)} ", style="not dim")
        return text.append(sparkline(self._volumes), style="blue")

    def _front(self, snapshot: "Snapshot") -> "list[RenderableType]":
        from rich.text import Text

        objectives = self._settings.objective_list
        rows = show.point_rows(snapshot.front, objectives)
        if not rows:
            return []
        table = show.table(thinned(rows), show.point_columns(objectives, narrow=True), cut=True)
        left = f" ({FRONT_ROWS} of {len(rows)})" if len(rows) > FRONT_ROWS else ""
        return [Text(f"\nfront{left}", style="bright_black"), table]

    def _running(self, snapshot: "Snapshot") -> "list[RenderableType]":
        from rich.text import Text

        if not snapshot.running:
            return []
        last = len(self._settings.evaluation.rungs.steps) - 1
        shown = [f"  #{r.trial} to rung {r.rung} of {last}  {r.name}" for r in snapshot.running[:RUNNING_ROWS]]
        more = len(snapshot.running) - len(shown)
        return [Text("\nrunning", style="bright_black"), *map(Text, shown), *([Text(f"  {more} more")] if more else [])]

    def _news(self) -> "list[RenderableType]":
        from rich.text import Text

        if not self._events:
            return []
        grid = _grid()
        for clock, event in list(self._events):
            trial = "" if event.trial is None else f"#{event.trial}"
            style = {"failed": "red", "finished": "green", "drain": "yellow"}.get(event.kind, "")
            grid.add_row(Text(clock, style="bright_black"), trial, Text(event.kind, style=style), Text(event.message))
        return [Text("\nevents", style="bright_black"), grid]


def thinned(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """At most `FRONT_ROWS` rows: both ends, and evenly between them."""
    if len(rows) <= FRONT_ROWS:
        return rows
    return [rows[round(i * (len(rows) - 1) / (FRONT_ROWS - 1))] for i in range(FRONT_ROWS)]


def sparkline(values: list[float]) -> str:
    """The last values as bars from 0 to their largest."""
    shown = values[-SPARK_WIDTH:]
    top = max(shown, default=0.0)
    return "".join(SPARKS[round(value / top * (len(SPARKS) - 1))] for value in shown) if top > 0 else ""


def _budget(settings: "SearchSettings", snapshot: "Snapshot") -> str:
    budget, spent = settings.budget, snapshot.spent
    parts = [f"{spent.trials} of {budget.trials} trials"] if budget.trials else []
    parts += [f"{spent.minutes:.1f} of {budget.minutes:g} minutes"] if budget.minutes else []
    return ", ".join(parts)


def _beginning(settings: "SearchSettings") -> str:
    return "starting the workers" if settings.replay is None else "looking results up in a table"


def _grid() -> "Table":
    from rich.table import Table

    grid = Table.grid(padding=(0, 2, 0, 0))
    for width in (8, 4, 8):
        grid.add_column(no_wrap=True, min_width=width)
    grid.add_column(no_wrap=True, overflow="ellipsis")
    return grid


def _clock() -> str:
    return datetime.now().strftime("%H:%M:%S")
