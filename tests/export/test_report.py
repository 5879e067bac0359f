from collections.abc import Callable, Sequence
from dataclasses import replace

from hybridsearch.export.report import card
from hybridsearch.objectives import Objective
from hybridsearch.reporting.points import Point


def test_the_card_tells_numbers_ranges_layers_and_the_comparison(
    make_point: Callable[..., Point], objectives: Sequence[Objective]
) -> None:
    control = make_point(0, 0.75, 500.0, control="full")
    text = card(make_point(1, 0.5, 2000.0), study="demo", objectives=objectives, context=128, controls=[control])
    assert "Study `demo`, trial 1, on the front." in text
    assert "| decode throughput (tokens/s) | 2k | 1.8k to 2.2k (3) |" in text
    assert "| 1 | gated delta 2x8; feed-forward 2 |" in text
    assert "| `full` | -0.250 | 4.00x | 1.00x |" in text
    assert "| layers with unbounded softmax attention | 0 of 1 |" in text


def test_a_small_share_of_a_controls_memory_is_not_nothing(
    make_point: Callable[..., Point], objectives: Sequence[Objective]
) -> None:
    control = replace(make_point(0, 0.75, 500.0, control="full"), state_bytes=4_000_000)
    mine = replace(make_point(1, 0.5, 2000.0), state_bytes=17_000)
    text = card(mine, study="demo", objectives=objectives, context=128, controls=[control])
    assert "| `full` | -0.250 | 4.00x | 0.004x |" in text


def test_a_control_is_not_compared_with_itself(
    make_point: Callable[..., Point], objectives: Sequence[Objective]
) -> None:
    control = make_point(0, 0.75, 500.0, control="full")
    text = card(control, study="demo", objectives=objectives, context=128, controls=[control])
    assert "control `full`" in text
    assert "Against the controls" not in text
