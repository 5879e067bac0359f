import struct
from collections.abc import Callable, Sequence
from dataclasses import replace
from itertools import pairwise

import pytest

from hybridsearch.objectives import OBJECTIVES, Objective
from hybridsearch.reporting.plots import interactive, series, still
from hybridsearch.reporting.plots.files import figure_files
from hybridsearch.reporting.points import Point, Progress, Spread
from hybridsearch.trial import Candidate

PROGRESS = [Progress(trials=1, seconds=30.0, hypervolume=900.0), Progress(trials=2, seconds=60.0, hypervolume=2700.0)]
RECALL, THROUGHPUT, MEMORY = (OBJECTIVES[n] for n in ("recall", "decode_tokens_per_second", "cache_bytes"))


def size(png: bytes) -> tuple[int, int]:
    assert png.startswith(b"\x89PNG\r\n\x1a\n")
    width, height = struct.unpack(">II", png[16:24])
    return width, height


def test_the_page_names_controls_architectures_and_hashes(
    points: list[Point], objectives: Sequence[Objective], make_candidate: Callable[[str], Candidate]
) -> None:
    files = figure_files("study-a", points, objectives, PROGRESS)
    page = files["front.html"].decode()
    assert '"text":["full"]' in page
    for pattern in ("ff", "gg", "fg"):
        assert make_candidate(pattern).name in page
    assert points[1].hash[:8] in page
    assert "recall: 0.9 (0.85 to 0.94)" in page
    assert "cdn" not in page.split("</script>")[-2].lower(), "the page must open without a network"
    assert [size(files[name]) for name in sorted(files) if name.endswith(".png")] == [(1350, 840)] * 3


def test_both_axes_carry_error_bars(points: list[Point]) -> None:
    figure = interactive.front(points, THROUGHPUT, RECALL, "t")
    control = next(trace for trace in figure.data if trace.name == "control")
    assert tuple(control.error_x.array) == pytest.approx((100.0,))
    assert tuple(control.error_x.arrayminus) == pytest.approx((100.0,))
    assert tuple(control.error_y.array) == pytest.approx((0.04,))
    assert tuple(control.error_y.arrayminus) == pytest.approx((0.05,))


def test_dominated_points_are_dimmed_and_the_front_is_not(points: list[Point]) -> None:
    traces = {trace.name: trace for trace in interactive.front(points, THROUGHPUT, RECALL, "t").data}
    assert traces["dominated"].marker.opacity < 0.5
    assert traces["front"].marker.opacity == 1.0
    assert len(traces["dominated"].x) == len(traces["front"].x) == 1


def test_a_point_that_breaks_a_constraint_is_neither_front_nor_dominated(points: list[Point]) -> None:
    points[2] = replace(points[2], feasible=False)
    drawn = {group.name: [p.trial for p in group.points] for group in series.groups(points)}
    assert drawn == {"dominated": [], "breaks a constraint": [2], "front": [1], "control": [0]}


@pytest.mark.parametrize("x", [THROUGHPUT, MEMORY])
@pytest.mark.parametrize("y", [RECALL, OBJECTIVES["answer_loss"]])
def test_the_edge_encloses_exactly_what_is_dominated(points: list[Point], x: Objective, y: Objective) -> None:
    """A point just inside a corner of the front is dominated: the edge must pass outside of it, at the corner."""
    better_x = 1.0 if x.direction == "maximize" else -1.0
    better_y = 1.0 if y.direction == "maximize" else -1.0
    places = [(better_x * a, better_y * b) for a, b in ((1.0, 3.0), (2.0, 2.0), (3.0, 1.0))]
    shown = [
        replace(points[0], on_front=True, trial=n, metrics={x.name: _exact(a), y.name: _exact(b)})
        for n, (a, b) in enumerate(places)
    ]
    _, axes = still._axes("t", "x", "y")
    axes.set_xlim(-4, 4)
    axes.set_ylim(-4, 4)
    corners = still._corners(axes, shown, x, y)
    assert set(places) <= set(corners)
    inner = {c for c in corners if c not in places and abs(c[0]) < 4 and abs(c[1]) < 4}
    assert len(inner) == 2
    for corner in inner:
        beaten = [
            p for p in places if better_x * p[0] >= better_x * corner[0] and better_y * p[1] >= better_y * corner[1]
        ]
        assert len(beaten) == 2, "an inner corner is the meet of two neighbours: both are at least as good"
    assert all(a[0] == b[0] or a[1] == b[1] for a, b in pairwise(corners)), "only right angles"


def test_labels_do_not_cover_each_other(points: list[Point]) -> None:
    taken: list[still.Box] = []
    first = still._free_place(points[1], (100.0, 100.0), taken)
    second = still._free_place(points[2], (100.0, 100.0), taken)
    assert first is not None
    assert first != second
    assert not any(still._overlap(a, b) for i, a in enumerate(taken) for b in taken[:i])


def test_the_ladder_shows_all_controls_and_both_ends_of_a_long_front(points: list[Point]) -> None:
    many = [
        replace(points[1], trial=n, metrics={"recall/64x8": _exact(n / 100), "recall/64x16": _exact(n / 200)})
        for n in range(10, 60)
    ]
    names, lines = series.ladder([points[0], *many])
    shown = [point.trial for point, _, _ in lines]
    assert names[:2] == ["8 pairs in 64", "16 pairs in 64"]
    assert len(shown) == series.MOST_LINES
    assert (shown[0], shown[1], shown[-1]) == (0, 59, 10)


def test_figures_of_an_empty_study_say_so(objectives: Sequence[Objective]) -> None:
    files = figure_files("empty", [], objectives, [])
    assert series.NO_POINTS in files["front.html"].decode()
    assert size(files["front.png"])[0] > 0


def test_a_title_cannot_inject_markup(points: list[Point]) -> None:
    page = interactive.page("<script>x</script>", {"front": interactive.front(points, THROUGHPUT, RECALL, "<b>t")})
    assert "<script>x" not in page


def _exact(value: float) -> Spread:
    return Spread(value=value, low=value, high=value)
