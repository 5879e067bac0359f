import json
from collections.abc import Callable

from hybridsearch.reporting.points import Point, Spread, levels, spreads
from hybridsearch.reporting.wording import amount, describe_layers, runs
from hybridsearch.trial import Candidate, Measurement, Report


def test_throughput_of_the_first_rung_is_kept_with_its_quartiles(make_reports: Callable[..., list[Report]]) -> None:
    metrics = spreads(make_reports(0, 0.8, 1000.0))
    assert metrics["decode_tokens_per_second"] == Spread(value=1000.0, low=900.0, high=1100.0, count=7)
    assert metrics["decode_tokens_per_second/4096x8"] == metrics["decode_tokens_per_second"]


def test_recall_is_the_last_rungs_with_the_seeds_range(make_reports: Callable[..., list[Report]]) -> None:
    assert spreads(make_reports(0, 0.8, 1.0))["recall"] == Spread(value=0.8, low=0.75, high=0.8400000000000001, count=2)


def test_the_objective_is_measured_at_the_largest_shape() -> None:
    shapes = [(512, 8, 5.0), (4096, 1, 4.0), (4096, 8, 3.0), (512, 1, 2.0)]
    measured = tuple(
        Measurement(phase="prefill", context=c, batch=b, tokens_per_second=v, low=v, high=v, repeats=3)
        for c, b, v in shapes
    )
    report = Report(trial=0, rung=0, steps=1, metrics={}, measurements=measured)
    assert spreads([report])["prefill_tokens_per_second"].value == 3.0


def test_levels_come_easiest_first() -> None:
    one = Spread(value=1.0, low=1.0, high=1.0)
    metrics = {"recall/256x64": one, "recall/64x8": one, "recall/1024x8": one, "recall": one, "answer_loss/9x1": one}
    assert [(length, pairs) for length, pairs, _ in levels(metrics)] == [(64, 8), (1024, 8), (256, 64)]


def test_equal_layers_are_described_once(make_candidate: Callable[[str], Candidate]) -> None:
    texts = describe_layers(json.loads(make_candidate("ggf").canonical))
    assert runs(texts) == [
        (1, 2, "gated delta 2x8; feed-forward 32"),
        (3, 3, "full attention 2x8; feed-forward 32"),
    ]


def test_labels_name_controls_and_number_the_others(points: list[Point]) -> None:
    assert [point.label for point in points] == ["full", "#1", "#2"]


def test_amounts_have_three_digits() -> None:
    assert [amount(v) for v in (0.12345, 999.0, 12345.0, 4.5e6)] == ["0.123", "999", "12.3k", "4.5M"]
