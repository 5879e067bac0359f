"""A study's standing from recorded trials: the same as the running controller's."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest

from hybridsearch.control import in_process
from hybridsearch.control.standing import merged, missing, outline, score_of, standing
from hybridsearch.settings import SearchSettings
from hybridsearch.trial import Evaluator, Report

Make = Callable[..., Any]


def test_the_store_alone_gives_the_controllers_front_and_hypervolume(make: Make, evaluator: Evaluator) -> None:
    search = make(budget={"trials": 12})
    controller = search.controller()
    in_process.run(controller, evaluator)
    seen = standing(search.settings, search.store.trials("s"))
    snapshot = controller.snapshot()
    assert {p.trial for p in seen.front} == {p.trial for p in snapshot.front}
    assert seen.hypervolume == pytest.approx(snapshot.hypervolume)
    volumes = [p.hypervolume for p in seen.progress]
    assert volumes == sorted(volumes)
    assert seen.progress[-1].hypervolume == seen.hypervolume


def test_points_that_break_a_constraint_stay_off_the_front(make: Make, evaluator: Evaluator) -> None:
    search = make(constraints={"cache_bytes": {"maximum": 250}}, budget={"trials": 8})
    in_process.run(search.controller(), evaluator)
    seen = standing(search.settings, search.store.trials("s"))
    broken = [p for p in seen.points if p.metrics["cache_bytes"].value > 250]
    assert broken
    assert not any(p.on_front or p.feasible for p in broken)
    assert seen.front


def test_later_reports_override_and_earlier_ones_fill_in() -> None:
    first = Report(trial=0, rung=0, steps=1, metrics={"recall": 0.1, "cache_bytes": 7.0})
    last = Report(trial=0, rung=1, steps=2, metrics={"recall": 0.9})
    assert merged([first, last]) == {"recall": 0.9, "cache_bytes": 7.0}


def test_a_missing_or_infinite_objective_is_named(make: Make) -> None:
    settings = make().settings
    good = {"recall": 0.5, "answer_loss": 1.0, "decode_tokens_per_second": 10.0}
    assert missing(settings, good, final=True) is None
    assert missing(settings, {**good, "recall": float("inf")}, final=True) == "recall is inf"
    assert missing(settings, {**good, "recall": float("inf")}, final=False) is None
    assert missing(settings, {"recall": 0.5}, final=True) == "decode_tokens_per_second is missing"


def test_scores_carry_the_standard_error_over_the_seeds() -> None:
    metrics = {"recall": 0.5, "answer_loss": 2.0, "decode_tokens_per_second": 100.0}
    report = Report(
        trial=0, rung=0, steps=1, metrics=metrics, replicates={"recall": (0.4, 0.6), "answer_loss": (2.0, 2.0)}
    )
    settings = SearchSettings(space="tiny")
    assert score_of(settings, [report], final=True).errors == pytest.approx((0.1, 0.0))
    assert score_of(settings, [report], final=False).errors == (0.0, 0.0)
    single = replace(report, replicates={"recall": (0.5,), "answer_loss": (2.0,)})
    assert score_of(settings, [single], final=True).errors == ()


@pytest.mark.parametrize("constraints", [{}, {"cache_bytes": {"maximum": 200.0}}])
def test_the_outline_has_the_front_of_the_whole_standing(
    make: Make, evaluator: Evaluator, constraints: dict[str, Any]
) -> None:
    search = make(budget={"trials": 12}, constraints=constraints)
    in_process.run(search.controller(), evaluator)
    whole = standing(search.settings, search.store.trials("s"))
    found = outline(search.settings, search.store, "s")
    assert found.front == whole.front
    assert found.finished == len(whole.points)
    assert found.hypervolume == pytest.approx(whole.hypervolume)
    assert found.front


def test_the_outline_of_a_study_without_finished_trials_is_empty(make: Make) -> None:
    search = make()
    found = outline(search.settings, search.store, "s")
    assert (found.finished, found.front, found.hypervolume) == (0, (), 0.0)
