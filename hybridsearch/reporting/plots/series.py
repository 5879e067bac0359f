"""What the figures show, before anything is drawn: groups, the staircase of the front, colours and marks.

Colours are Okabe and Ito's, told apart in the common kinds of colour blindness; no group is told by colour alone.
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass

from hybridsearch.objectives import Objective
from hybridsearch.reporting.points import Point, Spread, levels
from hybridsearch.reporting.wording import amount, describe_layers, label, runs

BLUE, ORANGE, GREEN, VERMILION, PURPLE, SKY, BLACK = (
    "#0072B2",
    "#E69F00",
    "#009E73",
    "#D55E00",
    "#CC79A7",
    "#56B4E9",
    "#222222",
)
GREY, PALE, SHADE = "#8A8F98", "#E3E6EA", "#EAF3F9"
CYCLE = (BLUE, VERMILION, GREEN, PURPLE, ORANGE, SKY, BLACK)
MOST_LINES = 10
"""Lines in the figure of difficulties; more cannot be told apart."""
LOG_FROM = 8.0
"""Largest over smallest value from which an axis is logarithmic."""
CAPTION = "Bars: smallest to largest seed, and quartiles of the timed repeats."
NO_POINTS = "no finished trials yet"


@dataclass(frozen=True, slots=True, kw_only=True)
class Group:
    """Points drawn alike."""

    name: str
    points: tuple[Point, ...]
    colour: str
    alpha: float


def drawn(points: Sequence[Point], x: Objective, y: Objective) -> list[Point]:
    """The points that have both metrics."""
    return [p for p in points if x.name in p.metrics and y.name in p.metrics]


def groups(points: Sequence[Point]) -> tuple[Group, ...]:
    """Dominated, infeasible, front, controls: the last is drawn on top. A control stays one when it is on the front."""
    candidates = [p for p in points if p.control is None]
    return (
        Group(name="dominated", colour=GREY, alpha=0.45,
              points=tuple(p for p in candidates if p.feasible and not p.on_front)),
        Group(name="breaks a constraint", colour=GREY, alpha=0.45,
              points=tuple(p for p in candidates if not p.feasible)),
        Group(name="front", colour=BLUE, alpha=1.0, points=tuple(p for p in candidates if p.on_front)),
        Group(name="control", colour=VERMILION, alpha=1.0, points=tuple(p for p in points if p.control is not None)),
    )  # fmt: skip


def staircase(points: Sequence[Point], x: Objective, y: Objective) -> tuple[list[float], list[float]]:
    """The corners of the front, by rising x. Between two, the edge of the dominated region follows `step_first`."""
    front = sorted((p.metrics[x.name].value, p.metrics[y.name].value) for p in points if p.on_front)
    return [a for a, _ in front], [b for _, b in front]


def step_first(x: Objective) -> str:
    """`vertical` or `horizontal`: how the edge leaves a corner when x rises."""
    return "vertical" if x.direction == "maximize" else "horizontal"


def logarithmic(points: Sequence[Point], objective: Objective) -> bool:
    """Whether the objective's axis spans enough to be logarithmic."""
    values = [p.metrics[objective.name].value for p in points]
    return bool(values) and min(values) > 0 and max(values) / min(values) >= LOG_FROM


def bars(points: Sequence[Point], metric: str) -> tuple[list[float], list[float]]:
    """Lengths of the error bars below and above each point."""
    spreads = [p.metrics[metric] for p in points]
    return [max(0.0, s.value - s.low) for s in spreads], [max(0.0, s.high - s.value) for s in spreads]


def hover(point: Point, metrics: Sequence[str]) -> str:
    """The text beside a point: name, hash, trial, the metrics with spread, sizes and layers."""
    lines = [f"<b>{point.name}</b>", f"{point.label} | trial {point.trial} | {point.hash[:8]}"]
    lines += [f"{label(name)}: {spread_text(point.metrics[name])}" for name in metrics if name in point.metrics]
    lines.append(f"parameters {amount(point.parameters)}, state {amount(point.state_bytes)}B")
    texts = describe_layers(json.loads(point.canonical))
    lines += [f"layer {a}: {text}" if a == b else f"layers {a}-{b}: {text}" for a, b, text in runs(texts)]
    return "<br>".join(lines)


def spread_text(spread: Spread) -> str:
    """A value with its range, e.g. `0.91 (0.88 to 0.93)`."""
    if spread.low == spread.high:
        return amount(spread.value)
    return f"{amount(spread.value)} ({amount(spread.low)} to {amount(spread.high)})"


def ladder(points: Sequence[Point]) -> tuple[list[str], list[tuple[Point, list[float], list[Spread]]]]:
    """Difficulties as text, and per shown trial its positions and recalls: controls, then an even pick of the front.

    The front is picked by falling recall, so that its strongest and its weakest member are always shown.
    """
    shown = [p for p in points if p.control is not None and levels(p.metrics)]
    front = [p for p in points if p.control is None and p.on_front and levels(p.metrics)]
    front.sort(key=lambda p: -sum(s.value for _, _, s in levels(p.metrics)))
    room = max(2, MOST_LINES - len(shown))
    if len(front) > room:
        front = [front[round(i * (len(front) - 1) / (room - 1))] for i in range(room)]
    shown += front
    names = sorted({(pairs, length) for p in shown for length, pairs, _ in levels(p.metrics)})
    where = {level: float(position) for position, level in enumerate(names)}
    lines = [(p, [where[(n, t)] for t, n, _ in levels(p.metrics)], [s for _, _, s in levels(p.metrics)]) for p in shown]
    return [f"{pairs} pairs in {length}" for pairs, length in names], lines
