"""What is printed, once: listings as table, JSON or CSV on standard output; errors and notes on standard error."""

import csv
import json
import sys
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from enum import StrEnum
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

if TYPE_CHECKING:
    from rich.console import Console, RenderableType
    from rich.table import Table

    from hybridsearch.objectives import Objective
    from hybridsearch.reporting.points import Point

WIDE = 240
"""Columns where nobody looks at a terminal: nothing is wrapped or cut."""

GAP = 2
"""Columns between those of a table."""
NARROWEST = 12
"""Columns that the last one of a table keeps, however narrow the screen is."""

Row = Mapping[str, Any]


class Format(StrEnum):
    """How a listing is printed."""

    TABLE = "table"
    JSON = "json"
    CSV = "csv"


FormatOption = Annotated[
    Format,
    typer.Option("--format", "-f", metavar="table|json|csv", help="How to print; json and csv have every column."),
]


@dataclass(frozen=True, slots=True)
class Column:
    """A column of a table."""

    key: str
    title: str
    text: Callable[[Any], str] = str
    right: bool = False


def console(*, error: bool = False) -> "Console":
    """Standard output or standard error; wide unless it is a terminal. NO_COLOR is honoured."""
    from rich.console import Console

    stream = sys.stderr if error else sys.stdout
    width = None if stream.isatty() else WIDE
    return Console(stderr=error, width=width, highlight=False, emoji=False, markup=False)


def put(drawn: "RenderableType", *, before: str = "") -> None:
    """Something drawn on standard output, `before` in front of each line and without the blanks that fill it up."""
    screen = console()
    with screen.capture() as captured:
        screen.print(drawn, crop=False)
    line("\n".join((before + text).rstrip() for text in captured.get().splitlines()))


def note(text: str) -> None:
    """A line on standard error; where nobody hears it (a closed pipe, a full disk) the work goes on."""
    with suppress(OSError):
        print(text, file=sys.stderr, flush=True)  # noqa: T201 - the one place that prints notes


def line(text: str = "") -> None:
    """A line on standard output."""
    print(text, flush=True)  # noqa: T201 - the one place that prints results


def piece(text: str) -> None:
    """Text on standard output at once, its line not ended."""
    print(text, end="", flush=True)  # noqa: T201 - as above


def failure(text: str) -> None:
    """An error as exactly one line on standard error."""
    note("error: " + " ".join(text.split()))


def examples(*commands: str) -> str:
    """The end of a verb's help."""
    return "\b\nExamples:\n" + "\n".join(f"  {command}" for command in commands)


def as_json(value: Any) -> None:
    """A value as JSON on standard output."""
    line(json.dumps(value, indent=2, default=str))


def listing(rows: Sequence[Row], columns: Sequence[Column], form: Format, *, empty: str = "") -> None:
    """Print rows; as a table only `columns`, as JSON or CSV everything."""
    if form is Format.JSON:
        as_json(list(rows))
    elif form is Format.CSV:
        keys = list(dict.fromkeys(key for row in rows for key in row)) or [column.key for column in columns]
        writer = csv.DictWriter(sys.stdout, keys, lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)
        sys.stdout.flush()
    elif rows:
        put(table(rows, columns))
    elif empty:
        line(empty)


def table(rows: Sequence[Row], columns: Sequence[Column], *, cut: bool = False) -> "Table":
    """Rows as a table without frame; what is too wide is cut, or goes on in the next line: only the last column is
    broken inside a word or a number."""
    from rich.table import Table

    drawn = Table(box=None, pad_edge=False, padding=(0, GAP, 0, 0), header_style="bold")
    widths = [None] * len(columns) if cut else _widths(rows, columns, console().width)
    for column, width in zip(columns, widths, strict=True):
        justify: Literal["left", "right"] = "right" if column.right else "left"
        overflow: Literal["ellipsis", "fold"] = "ellipsis" if cut else "fold"
        drawn.add_column(column.title, justify=justify, overflow=overflow, no_wrap=cut, width=width)
    if None not in widths:  # wider than the screen if it must be: rich would break numbers
        drawn.width = sum(width or 0 for width in widths) + GAP * (len(columns) - 1)
    for row in rows:
        style = "magenta" if row.get("control") else ""
        drawn.add_row(*(_cell(row, column) for column in columns), style=style)
    return drawn


def pairs(rows: Sequence[tuple[str, str]], *, before: str = "") -> None:
    """Names and values below each other."""
    from rich.table import Table

    drawn = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), show_header=False)
    drawn.add_column(style="bold", no_wrap=True)
    drawn.add_column(overflow="fold")
    for name, value in rows:
        drawn.add_row(name, value)
    put(drawn, before=before)


def machine(described: str) -> str:
    """A machine, as a report describes it, in words: what computes, and with which torch."""
    try:
        facts = json.loads(described)
        threads = f"{facts['threads']} thread{'s' * (facts['threads'] != 1)}"
        place = facts["gpu"] if "gpu" in facts else f"{facts['cpu']}, {threads}"
        return f"{place}, torch {facts['torch']}"
    except (ValueError, KeyError, TypeError):
        return described


def _widths(rows: Sequence[Row], columns: Sequence[Column], screen: int) -> list[int | None]:
    """Of columns that do not fit the screen: all as wide as their longest word, and the last what is left."""
    cells = [[_cell(row, column) for row in rows] for column in columns]
    gaps = GAP * (len(columns) - 1)
    if gaps + sum(max(map(len, (c.title, *texts))) for c, texts in zip(columns, cells, strict=True)) <= screen:
        return [None] * len(columns)
    least = [max(map(len, (*c.title.split(), *texts))) for c, texts in zip(columns[:-1], cells, strict=False)]
    return [*least, max(NARROWEST, screen - gaps - sum(least))]


def _cell(row: Row, column: Column) -> str:
    value = row.get(column.key)
    return "" if value is None else column.text(value)


# points of a study


def point_rows(points: Sequence["Point"], objectives: Sequence["Objective"]) -> list[dict[str, Any]]:
    """Finished trials as rows, best first objective first; every metric with its range."""
    first = objectives[0]
    sign = -1.0 if first.direction == "maximize" else 1.0
    ordered = sorted(points, key=lambda p: (sign * p.metrics[first.name].value, p.trial))
    return [_point_row(point, [objective.name for objective in objectives]) for point in ordered]


def _point_row(point: "Point", objectives: Sequence[str]) -> dict[str, Any]:
    row: dict[str, Any] = {
        "trial": point.trial,
        "name": point.name,
        "control": point.control,
        "on_front": point.on_front,
        "feasible": point.feasible,
        "parameters": point.parameters,
        "state_bytes": point.state_bytes,
        "flops_per_token": point.flops_per_token,
        "hash": point.hash,
    }
    names = [*objectives, *sorted(set(point.metrics) - set(objectives))]
    for name in names:
        spread = point.metrics[name]
        row[name] = spread.value
        if spread.count > 1:
            row |= {f"{name}.low": spread.low, f"{name}.high": spread.high}
    return row


def point_columns(objectives: Sequence["Objective"], *, marked: bool = False, narrow: bool = False) -> list[Column]:
    """The columns of a table of points; `marked` tells members of the front from others, `narrow` fits 80 letters."""
    columns = [Column("trial", "trial", lambda number: f"#{number}", right=True), Column("control", "control")]
    if marked:
        columns.append(Column("on_front", "front", lambda yes: "front" if yes else ""))
    columns += [Column(o.name, *_heading(o), right=True) for o in objectives]
    if not narrow:
        columns.append(Column("parameters", "parameters", number, right=True))
    return [*columns, Column("state_bytes", "state bytes", number, right=True), Column("name", "architecture")]


def _heading(objective: "Objective") -> tuple[str, Callable[[Any], str]]:
    if objective.unit.startswith("fraction"):
        return objective.name, lambda value: f"{value:.3f}"
    if objective.unit == "tokens/s":
        return objective.name.replace("_tokens_per_second", " tokens/s"), number
    return objective.name.replace("_", " "), number


def number(value: float) -> str:
    """Thousands apart, four digits where they carry meaning."""
    return f"{value:,.0f}" if abs(value) >= 1000 or value == int(value) else f"{value:.4g}"


def duration(seconds: float) -> str:
    """Seconds as `1:02:03`."""
    minutes, rest = divmod(int(seconds), 60)
    return f"{minutes // 60}:{minutes % 60:02d}:{rest:02d}"
