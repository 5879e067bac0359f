"""The screen of a running search, drawn into text."""

import io
from collections.abc import Callable
from typing import Any

import pytest
from rich.console import Console

from hybridsearch.cli import live
from hybridsearch.control.budget import Spent
from hybridsearch.control.snapshot import Running, Snapshot
from hybridsearch.db.store import Event
from hybridsearch.reporting.points import Point, Spread
from hybridsearch.settings import SearchSettings

SETTINGS = SearchSettings.model_validate({"space": "tiny", "budget": {"trials": 12, "minutes": 5}})


def point(trial: int, recall: float, speed: float, control: str | None = None) -> Point:
    metrics = {
        "recall": Spread(value=recall, low=recall, high=recall),
        "decode_tokens_per_second": Spread(value=speed, low=speed, high=speed),
    }
    return Point(
        trial=trial, hash="ab" * 32, name=f"gdn{trial}-abababab", canonical="{}", parameters=10, state_bytes=20,
        flops_per_token=30, metrics=metrics, on_front=True, control=control,
    )  # fmt: skip


def snapshot(finished: int, hypervolume: float, front: int = 1) -> Snapshot:
    return Snapshot(
        study="s",
        counts={"finished": finished, "failed: out of memory": 2},
        running=(Running(trial=7, name="gdn2.full1-abcdef12", rung=1),),
        front=tuple(point(i, 0.9 - 0.01 * i, 1000.0 + i, "full" if i == 0 else None) for i in range(front)),
        hypervolume=hypervolume,
        spent=Spent(trials=6, minutes=1.5),
        share=0.5,
        seconds=90.0,
    )


def drawn(screen: live.Screen, width: int = 100) -> str:
    console = Console(file=io.StringIO(), width=width, markup=False)
    console.print(screen.render())
    assert isinstance(console.file, io.StringIO)
    return console.file.getvalue()


def test_before_the_first_trial_it_says_that_workers_start() -> None:
    assert "s: starting the workers" in drawn(live.Screen("s", SETTINGS))


def test_it_shows_budget_states_front_and_running_trials() -> None:
    screen = live.Screen("s", SETTINGS)
    screen.snapshot(snapshot(4, 1234.0, front=2))
    text = drawn(screen)
    for part in ("0:01:30", "6 of 12 trials, 1.5 of 5 minutes", "1 busy", "failed: out of memory 2", "finished 4"):
        assert part in text
    assert "hypervolume 1,234" in text
    rows = [line.split() for line in text.splitlines() if "-abababab" in line]
    assert [row[:-2] for row in rows] == [["#0", "full", "0.900", "1,000"], ["#1", "0.890", "1,001"]]
    assert "#7 to rung 1 of 2  gdn2.full1-abcdef12" in text


def test_a_long_front_is_shown_by_its_ends_and_eight_rows() -> None:
    screen = live.Screen("s", SETTINGS)
    screen.snapshot(snapshot(20, 1.0, front=20))
    text = drawn(screen)
    assert "front (8 of 20)" in text
    shown = [line.split()[0] for line in text.splitlines() if "-abababab" in line]
    assert len(shown) == 8
    assert (shown[0], shown[-1]) == ("#0", "#19")


def test_the_last_five_events_stand_with_their_reasons_and_the_usual_ones_do_not() -> None:
    screen = live.Screen("s", SETTINGS)
    for number in range(7):
        screen.event(Event(kind="stopped", message=f"because of {number}", trial=number))
    screen.event(Event(kind="waiting", message="proposed by evolution", trial=8))
    text = drawn(screen)
    assert [f"because of {number}" in text for number in range(7)] == [False, False, True, True, True, True, True]
    assert "proposed" not in text


def test_a_drain_says_what_a_second_ctrl_c_does() -> None:
    screen = live.Screen("s", SETTINGS)
    screen.snapshot(snapshot(1, 1.0))
    assert "Ctrl-C again" not in drawn(screen)
    screen.event(Event(kind="drain", message="no new trials"))
    assert "Ctrl-C again stops at once" in drawn(screen)


def test_the_sparkline_grows_with_finished_trials_alone() -> None:
    screen = live.Screen("s", SETTINGS)
    for finished, volume in ((0, 0.0), (1, 1.0), (1, 1.0), (2, 2.0)):
        screen.snapshot(snapshot(finished, volume))
    assert "▁▅█" in drawn(screen) or "▁▄█" in drawn(screen)
    assert live.sparkline([]) == live.sparkline([0.0]) == ""


@pytest.mark.parametrize("width", [40, 80, 200])
def test_no_line_is_wider_than_the_terminal(width: int) -> None:
    screen = live.Screen("s", SETTINGS)
    screen.snapshot(snapshot(20, 1.0, front=20))
    screen.event(Event(kind="stopped", message="a reason " * 30, trial=3))
    assert max(map(len, drawn(screen, width).splitlines())) <= width


def test_in_a_pipe_every_event_is_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    with live.view("s", SETTINGS, quiet=False) as view:
        view.event(Event(kind="stopped", message="rung 0: rank 3", trial=3))
        view.event(Event(kind="running", trial=4))
        view.snapshot(snapshot(1, 1.0))
    lines = capsys.readouterr().err.splitlines()
    assert [line[9:] for line in lines] == ["search s: starting the workers", "#3 stopped: rung 0: rank 3"]


def test_on_a_terminal_a_search_is_drawn_and_leaves_its_front(
    cli: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FORCE_COLOR", "1")
    monkeypatch.setenv("TTY_COMPATIBLE", "1")
    result = cli("search", "try.yaml")
    assert result.code == 0
    assert "\x1b[" in result.err and "0:00:0" in result.err
    monkeypatch.setenv("NO_COLOR", "1")
    assert "\x1b[3" not in cli("pareto", "try").out


def test_where_there_is_no_screen_a_line_a_minute_says_how_far_the_search_is(
    capsys: pytest.CaptureFixture[str],
) -> None:
    now = [0.0]
    lines = live.Lines(SETTINGS, lambda: now[0])
    for second in (1.0, 59.0, 60.0, 61.0, 119.0, 120.0):
        now[0] = second
        lines.snapshot(snapshot(4, 1234.0))
    said = capsys.readouterr().err.splitlines()
    assert len(said) == 2
    progress = "progress: 6 of 12 trials, 1.5 of 5 minutes; 2 failed: out of memory, 4 finished; hypervolume 1,234"
    assert said[0].endswith(progress)
