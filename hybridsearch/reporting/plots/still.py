"""The same figures as PNG, drawn by matplotlib without a display and without global state, so in any thread."""

from collections.abc import Sequence
from io import BytesIO
from itertools import pairwise
from typing import Any

from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import EngFormatter, LogLocator, NullFormatter

from hybridsearch.objectives import Objective
from hybridsearch.reporting.plots import series
from hybridsearch.reporting.points import Point, Progress
from hybridsearch.reporting.wording import amount, label

MARKS = ("o", "s", "D", "^", "v", "X")
"""One fewer than the colours, so that no pair of both comes back before 42 lines."""
STYLES: dict[str, dict[str, Any]] = {
    "dominated": {"marker": "o", "markersize": 5},
    "breaks a constraint": {"marker": "x", "markersize": 5},
    "front": {"marker": "o", "markersize": 8},
    "control": {"marker": "D", "markersize": 8},
}
LABEL_WIDTH, LABEL_HEIGHT = 6.3, 11.0
"""Points (1/72 inch) a bold character takes, and a line, at the labels' size of 9 points."""
DODGE = 0.02
"""Sideways shift between two lines of the difficulties, so that equal recalls stay visible."""
Box = tuple[float, float, float, float]
"""Left, bottom, right, top in points of the picture."""


def front(points: Sequence[Point], x: Objective, y: Objective, title: str) -> bytes:
    """The finished trials over two objectives; see `interactive.front`."""
    figure, axes = _axes(title, label(x.name), label(y.name))
    shown = series.drawn(points, x, y)
    if series.logarithmic(shown, x):
        axes.set_xscale("log")
        axes.xaxis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0)))
        axes.xaxis.set_minor_formatter(NullFormatter())
    axes.xaxis.set_major_formatter(EngFormatter(sep=""))
    for depth, group in enumerate(series.groups(shown)):
        if group.points:
            _draw_group(axes, group, x, y, depth)
    axes.margins(0.09)
    corners = _corners(axes, shown, x, y)
    _draw_edge(axes, corners, y)
    _name_points(axes, shown, corners, x, y)
    if shown:
        axes.legend(loc="upper center", bbox_to_anchor=(0.5, -0.13), ncols=5, frameon=False, fontsize=9)
        axes.set_title(series.CAPTION, loc="right", fontsize=7.5, color=series.GREY)
    else:
        axes.text(0.5, 0.5, series.NO_POINTS, ha="center", transform=axes.transAxes, color=series.GREY)
    return _png(figure)


def hypervolume(progress: Sequence[Progress], title: str) -> bytes:
    """The front's hypervolume over finished trials."""
    figure, axes = _axes(title, "finished trials", "hypervolume")
    trials, volumes = [p.trials for p in progress], [p.hypervolume for p in progress]
    axes.step(trials, volumes, where="post", color=series.BLUE, linewidth=2)
    axes.plot(trials, volumes, "o", color=series.BLUE, markersize=4)
    if volumes:
        axes.set_ylim(bottom=0.0)
        axes.yaxis.set_major_formatter(EngFormatter(sep=""))
        text = f"{amount(volumes[-1])} after {trials[-1]} trials, {progress[-1].seconds / 60:.1f} min"
        place: dict[str, Any] = {"textcoords": "offset points", "ha": "right", "va": "top", "color": series.BLUE}
        axes.annotate(text, (trials[-1], volumes[-1]), (0, -22), **place)
    return _png(figure)


def difficulties(points: Sequence[Point], title: str) -> bytes:
    """Recall at each difficulty, one line a trial; see `interactive.difficulties`."""
    names, lines = series.ladder(points)
    figure, axes = _axes(title, "difficulty (pairs to remember in tokens)", "recall")
    for index, (point, positions, spreads) in enumerate(lines):
        below, above = [s.value - s.low for s in spreads], [s.high - s.value for s in spreads]
        shift = DODGE * (index - (len(lines) - 1) / 2)
        axes.errorbar(
            [p + shift for p in positions], [s.value for s in spreads], yerr=(below, above), elinewidth=1,
            linewidth=1.8, color=series.CYCLE[index % len(series.CYCLE)], marker=MARKS[index % len(MARKS)],
            markersize=6, linestyle="--" if point.control else "-", label=f"{point.label} {point.name}",
        )  # fmt: skip
    axes.set_xticks(range(len(names)), names)
    axes.set_ylim(-0.03, 1.03)
    if lines:
        axes.legend(loc="center left", bbox_to_anchor=(1.01, 0.5), frameon=False, fontsize=8)
    return _png(figure)


def _draw_group(axes: Axes, group: series.Group, x: Objective, y: Objective, depth: int) -> None:
    axes.errorbar(
        [p.metrics[x.name].value for p in group.points], [p.metrics[y.name].value for p in group.points],
        xerr=series.bars(group.points, x.name), yerr=series.bars(group.points, y.name),
        linestyle="none", color=group.colour, alpha=group.alpha, elinewidth=1.2, label=group.name,
        markeredgecolor="white" if group.name in ("front", "control") else group.colour, markeredgewidth=0.8,
        zorder=4 + depth, **STYLES[group.name],
    )  # fmt: skip


def _corners(axes: Axes, points: Sequence[Point], x: Objective, y: Objective) -> list[tuple[float, float]]:
    """The edge of the dominated region as a polyline, led to the sides of the picture; empty without a front."""
    xs, ys = series.staircase(points, x, y)
    if not xs:
        return []
    (left, right), (bottom, top) = axes.get_xlim(), axes.get_ylim()
    worst_y = bottom if y.direction == "maximize" else top
    vertical = series.step_first(x) == "vertical"
    stops = list(zip(xs, ys, strict=True))
    stops = [(left, ys[0]), *stops, (xs[-1], worst_y)] if vertical else [(xs[0], worst_y), *stops, (right, ys[-1])]
    corners = [stops[0]]
    for (x0, y0), (x1, y1) in pairwise(stops):
        corners += [(x0, y1) if vertical else (x1, y0), (x1, y1)]
    return corners


def _draw_edge(axes: Axes, corners: Sequence[tuple[float, float]], y: Objective) -> None:
    """The staircase, and a tint over what it dominates."""
    if not corners:
        return
    limits = axes.get_xlim(), axes.get_ylim()
    xs, ys = [a for a, _ in corners], [b for _, b in corners]
    axes.plot(xs, ys, color=series.BLUE, linewidth=1.6, zorder=3, label="edge of the front")
    axes.fill_between(
        xs, ys, limits[1][0 if y.direction == "maximize" else 1], color=series.SHADE, zorder=0, linewidth=0
    )
    axes.set_xlim(limits[0])
    axes.set_ylim(limits[1])


def _name_points(
    axes: Axes, points: Sequence[Point], corners: Sequence[tuple[float, float]], x: Objective, y: Objective
) -> None:
    """Write controls' names, then front members' numbers, where no other label, point or edge lies."""
    spots = _to_points(axes, [(p.metrics[x.name].value, p.metrics[y.name].value) for p in points])
    edge = _to_points(axes, corners)
    taken = [(px - 4, py - 4, px + 4, py + 4) for px, py in spots]
    taken += [(min(a, c), min(b, d), max(a, c), max(b, d)) for (a, b), (c, d) in pairwise(edge)]
    order = sorted(range(len(points)), key=lambda i: (points[i].control is None, points[i].trial))
    for index in order:
        point = points[index]
        if point.control is None and not point.on_front:
            continue
        place = _free_place(point, spots[index], taken)
        if place is not None:
            axes.annotate(
                point.label, (point.metrics[x.name].value, point.metrics[y.name].value), place,
                textcoords="offset points", fontsize=9, zorder=12, va="bottom",
                color=series.VERMILION if point.control else series.BLUE,
                fontweight="bold" if point.control else "normal",
            )  # fmt: skip


def _free_place(point: Point, spot: tuple[float, float], taken: list[Box]) -> tuple[float, float] | None:
    """Where the label goes relative to its point; a control is always named, a member of the front if there is room."""
    width = LABEL_WIDTH * len(point.label)
    above, below = 5.0, -5.0 - LABEL_HEIGHT
    options = [(dx, dy) for far in (0, 11, 22) for dy in (above + far, below - far) for dx in (7.0, -7.0 - width)]
    for dx, dy in options:
        left, bottom = spot[0] + dx, spot[1] + dy
        box = (left, bottom, left + width, bottom + LABEL_HEIGHT)
        if not any(_overlap(box, other) for other in taken):
            taken.append(box)
            return dx, dy
    return options[0] if point.control else None


def _to_points(axes: Axes, places: Sequence[tuple[float, float]]) -> list[tuple[float, float]]:
    if not places:
        return []
    scale = 72 / axes.figure.dpi
    return [(float(a) * scale, float(b) * scale) for a, b in axes.transData.transform(list(places))]


def _overlap(a: Box, b: Box) -> bool:
    return a[0] < b[2] and b[0] < a[2] and a[1] < b[3] and b[1] < a[3]


def _axes(title: str, x_title: str, y_title: str) -> tuple[Figure, Axes]:
    figure = Figure(figsize=(9, 5.6), dpi=150, layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    axes.set_title(title, loc="left", fontsize=13, fontweight="bold", color=series.BLACK, pad=12)
    axes.set_xlabel(x_title, color=series.BLACK)
    axes.set_ylabel(y_title, color=series.BLACK)
    axes.grid(True, color=series.PALE, linewidth=0.8)
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)
    axes.spines[["left", "bottom"]].set_color(series.GREY)
    axes.tick_params(colors=series.BLACK, labelsize=9)
    return figure, axes


def _png(figure: Figure) -> bytes:
    buffer = BytesIO()
    figure.savefig(buffer, format="png")
    return buffer.getvalue()
