"""Interactive figures as HTML. A page carries plotly's script in itself (4.5 MB), so it opens without a network."""

from collections.abc import Mapping, Sequence
from html import escape
from typing import Any

import plotly.graph_objects as go  # type: ignore[import-untyped]

from hybridsearch.objectives import Objective
from hybridsearch.reporting.plots import series
from hybridsearch.reporting.points import Point, Progress
from hybridsearch.reporting.wording import label

SYMBOLS = {"dominated": "circle", "breaks a constraint": "x", "front": "circle", "control": "diamond"}
SIZES = {"dominated": 8, "breaks a constraint": 8, "front": 12, "control": 14}
MARKS = ("circle", "square", "diamond", "triangle-up", "triangle-down", "x")


def front(points: Sequence[Point], x: Objective, y: Objective, title: str) -> go.Figure:
    """The finished trials over two objectives, the front as a staircase, error bars on both axes, names on hover."""
    shown = series.drawn(points, x, y)
    figure = _figure(title, label(x.name), label(y.name))
    corners_x, corners_y = series.staircase(shown, x, y)
    figure.add_trace(
        go.Scatter(
            x=corners_x, y=corners_y, mode="lines", name="edge of the front", hoverinfo="skip",
            line={"color": series.BLUE, "width": 2, "shape": "vh" if series.step_first(x) == "vertical" else "hv"},
        )
    )  # fmt: skip
    for group in series.groups(shown):
        if group.points:
            figure.add_trace(_scatter(group, x, y))
    if series.logarithmic(shown, x):
        figure.update_xaxes(type="log", dtick="D2")
    figure.update_xaxes(tickformat="~s")
    if not shown:
        figure.add_annotation(text=series.NO_POINTS, showarrow=False, xref="paper", yref="paper", x=0.5, y=0.5)
    return figure


def hypervolume(progress: Sequence[Progress], title: str) -> go.Figure:
    """The front's hypervolume over finished trials; search time on hover."""
    figure = _figure(title, "finished trials", "hypervolume")
    figure.add_trace(
        go.Scatter(
            x=[p.trials for p in progress], y=[p.hypervolume for p in progress],
            customdata=[p.seconds / 60 for p in progress], mode="lines+markers", name="hypervolume",
            line={"color": series.BLUE, "width": 2, "shape": "hv"}, marker={"size": 6},
            hovertemplate="%{y:.4~g} after %{x} trials, %{customdata:.1f} min<extra></extra>",
        )
    )  # fmt: skip
    figure.update_layout(showlegend=False)
    return figure


def difficulties(points: Sequence[Point], title: str) -> go.Figure:
    """Recall at each difficulty, one line a trial: the controls dashed, then members of the front."""
    names, lines = series.ladder(points)
    figure = _figure(title, "difficulty (pairs to remember in tokens)", "recall")
    for index, (point, positions, spreads) in enumerate(lines):
        colour = series.CYCLE[index % len(series.CYCLE)]
        figure.add_trace(
            go.Scatter(
                x=[names[int(p)] for p in positions], y=[s.value for s in spreads],
                mode="lines+markers", name=f"{point.label} {point.name}",
                line={"color": colour, "width": 2, "dash": "dash" if point.control else "solid"},
                marker={"symbol": MARKS[index % len(MARKS)], "size": 9},
                error_y=_error([s.value - s.low for s in spreads], [s.high - s.value for s in spreads], colour),
            )
        )  # fmt: skip
    figure.update_xaxes(categoryorder="array", categoryarray=names)
    figure.update_yaxes(range=[-0.03, 1.03])
    return figure


def page(title: str, figures: Mapping[str, go.Figure]) -> str:
    """One self-contained HTML page of several figures, one below the other."""
    parts = [
        figure.to_html(full_html=False, include_plotlyjs=index == 0, div_id=name, config={"displaylogo": False})
        for index, (name, figure) in enumerate(figures.items())
    ]
    style = "body{font-family:system-ui,sans-serif;margin:1.5rem auto;max-width:75rem;color:#222}"
    head = f'<meta charset="utf-8"><title>{escape(title)}</title><style>{style}</style>'
    heading = f"<h1>{escape(title)}</h1><p>{series.CAPTION}</p>"
    return f"<!doctype html><html><head>{head}</head><body>{heading}{''.join(parts)}</body></html>"


def _scatter(group: series.Group, x: Objective, y: Objective) -> go.Scatter:
    points = group.points
    bars_colour = group.colour if group.alpha == 1.0 else "rgba(138,143,152,0.35)"
    return go.Scatter(
        x=[p.metrics[x.name].value for p in points],
        y=[p.metrics[y.name].value for p in points],
        mode="markers+text" if group.name == "control" else "markers",
        text=[p.label for p in points],
        textposition="top center",
        name=group.name,
        marker={
            "color": group.colour, "opacity": group.alpha, "size": SIZES[group.name], "symbol": SYMBOLS[group.name],
            "line": {"color": "white", "width": 1},
        },
        error_x=_error(*series.bars(points, x.name), bars_colour),
        error_y=_error(*series.bars(points, y.name), bars_colour),
        hovertext=[series.hover(p, (y.name, x.name)) for p in points],
        hoverinfo="text",
    )  # fmt: skip


def _error(below: Sequence[float], above: Sequence[float], colour: str) -> dict[str, Any]:
    return {
        "type": "data", "symmetric": False, "array": list(above), "arrayminus": list(below),
        "color": colour, "thickness": 1.2, "width": 3,
    }  # fmt: skip


def _figure(title: str, x_title: str, y_title: str) -> go.Figure:
    figure = go.Figure()
    figure.update_layout(
        title={"text": escape(title)}, template="plotly_white", height=560, hovermode="closest",
        xaxis_title=x_title, yaxis_title=y_title,
        legend={"orientation": "h", "y": -0.18}, margin={"l": 70, "r": 30, "t": 60, "b": 60},
    )  # fmt: skip
    return figure
