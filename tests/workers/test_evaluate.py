"""Whole jobs on tiny models: reports, resume, draining, failures, and the slot."""

import dataclasses
import tempfile
import threading
import time
from pathlib import Path
from typing import Any

import pytest

from hybridsearch.errors import FailureReason, TrialFailure, TrialPaused
from hybridsearch.settings import EvaluationSettings
from hybridsearch.spec import canonical
from hybridsearch.spec.architecture import Architecture, Layer
from hybridsearch.spec.combinators import Mixer, TokenRoute
from hybridsearch.spec.mixers import FullAttention, GatedDelta
from hybridsearch.training import exclusive
from hybridsearch.trial import Job, Report
from hybridsearch.workers.evaluate import evaluate

LEVEL = {"length": 16, "pairs": 2}
SETTINGS = {
    "task": {"vocabulary": 16, "train": [LEVEL], "test": [LEVEL, {"length": 24, "pairs": 3}], "test_examples": 8},
    "training": {"batch": 4, "learning_rates": [0.01], "seeds": 2},
    "rungs": {"steps": [4, 8, 12]},
    "throughput": {"contexts": [8, 16], "batches": [1, 2], "decode_tokens": 2, "repeats": 3},
    "device": "cpu",
}
FULL = FullAttention(heads=1, head_dim=8)
ROUTE = TokenRoute(softmax=FULL, linear=GatedDelta(heads=1, head_dim=8), chunk=4)


@pytest.fixture(autouse=True)
def _own_slot(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Neither wait for another process's measurements nor hold them up."""
    folder = tmp_path / "temporary"
    folder.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(folder))


def job(root: Path, mixer: Mixer = FULL, **changed: Any) -> Job:
    settings = EvaluationSettings.model_validate(SETTINGS)
    architecture = Architecture(width=8, layers=(Layer(mixer=mixer, feed_forward=0),))
    made = Job(
        study="s", trial=5, hash=canonical.content_hash(architecture), seed=1,
        architecture=canonical.canonical_json(architecture), rungs=settings.rungs.ladder,
        evaluation=settings.model_dump_json(), folder=str(root / "s" / "trials" / "t00005"),
    )  # fmt: skip
    return dataclasses.replace(made, **changed)


def numbers(report: Report) -> dict[str, float]:
    """The metrics that do not depend on the machine's speed."""
    return {name: value for name, value in report.metrics.items() if "second" not in name}


def test_every_rung_is_reported_with_all_metrics(tmp_path: Path) -> None:
    reports = list(evaluate(job(tmp_path)))
    assert [(report.trial, report.rung, report.steps) for report in reports] == [(5, 0, 4), (5, 1, 8), (5, 2, 12)]
    shapes = [f"{c}x{b}" for c in (8, 16) for b in (1, 2)]
    scores = [f"{name}{level}" for name in ("recall", "answer_loss") for level in ("", "/16x2", "/24x3")]
    speeds = [f"{phase}_tokens_per_second" for phase in ("prefill", "decode")]
    expected = {*scores, *speeds, *(f"{s}/{shape}" for s in speeds for shape in shapes), "cache_bytes", "learning_rate"}
    for report in reports:
        assert set(report.metrics) == expected
        assert len(report.replicates["recall"]) == 2
        assert len(report.measurements) == 8
        assert report.seconds > 0
    assert reports[0].measurements == reports[1].measurements == reports[2].measurements
    assert not list(Path(job(tmp_path).folder).glob("*.safetensors"))


def test_routing_is_measured_again_at_the_last_rung_and_its_share_reported(tmp_path: Path) -> None:
    first, middle, last = evaluate(job(tmp_path, ROUTE))
    assert first.measurements == middle.measurements != last.measurements
    assert all(0 <= report.metrics["softmax_share"] <= 1 for report in (first, middle, last))


def test_a_job_that_comes_again_repeats_its_reports_word_for_word(tmp_path: Path) -> None:
    assert list(evaluate(job(tmp_path))) == list(evaluate(job(tmp_path)))


def test_the_remaining_rungs_go_on_from_the_folder(tmp_path: Path) -> None:
    whole = list(evaluate(job(tmp_path / "whole")))
    begun = evaluate(job(tmp_path / "parts"))
    next(begun)
    del begun  # the controller had it stopped
    ladder = job(tmp_path).rungs
    rest = list(evaluate(job(tmp_path / "parts", rungs=ladder[1:])))
    assert [numbers(report) for report in rest] == [numbers(report) for report in whole[1:]]


def test_learning_rates_that_were_left_behind_stay_so_in_the_folder(tmp_path: Path) -> None:
    training = {"batch": 4, "learning_rates": [1e-7, 0.01], "seeds": 1}
    given = {"rungs": {"steps": [4, 8, 12], "learning_rates": [2, 1, 1]}, "training": training}
    settings = EvaluationSettings.model_validate({**SETTINGS, **given})
    changed: dict[str, Any] = {"evaluation": settings.model_dump_json(), "rungs": settings.rungs.ladder}
    whole = list(evaluate(job(tmp_path / "whole", **changed)))
    begun = evaluate(job(tmp_path / "parts", **changed))
    next(begun), next(begun)
    del begun
    rest = list(evaluate(job(tmp_path / "parts", **{**changed, "rungs": settings.rungs.ladder[2:]})))
    assert [numbers(report) for report in rest] == [numbers(report) for report in whole[2:]]
    assert whole[1].metrics["learning_rate"] == whole[2].metrics["learning_rate"]


def test_a_drain_puts_the_work_down_and_it_goes_on_later(tmp_path: Path) -> None:
    whole = list(evaluate(job(tmp_path / "whole")))
    flag = tmp_path / "parts" / "s" / "drain"
    running = evaluate(job(tmp_path / "parts"))
    first = next(running)
    flag.touch()
    with pytest.raises(TrialPaused):
        next(running)
    flag.unlink()
    resumed = list(evaluate(job(tmp_path / "parts")))
    assert resumed[0] == first
    assert [numbers(report) for report in resumed] == [numbers(report) for report in whole]


@pytest.mark.parametrize(
    ("changed", "reason", "text"),
    [
        ({"timeout_seconds": 0.0}, FailureReason.TIMED_OUT, "no report within 0 s"),
        ({"architecture": '{"width": 0}'}, FailureReason.ERROR, "`width`"),
        ({"evaluation": '{"device": "tpu"}'}, FailureReason.ERROR, "ValidationError"),
    ],
)
def test_what_goes_wrong_is_a_trial_failure(
    tmp_path: Path, changed: dict[str, Any], reason: FailureReason, text: str
) -> None:
    with pytest.raises(TrialFailure, match=text) as caught:
        list(evaluate(job(tmp_path, **changed)))
    assert caught.value.reason is reason


def test_waiting_for_the_slot_is_no_work(tmp_path: Path) -> None:
    other, inside = exclusive.Slot(), threading.Event()

    def measure_elsewhere() -> None:
        with exclusive.measuring(other):
            inside.set()
            time.sleep(1.0)

    elsewhere = threading.Thread(target=measure_elsewhere)
    elsewhere.start()
    inside.wait()
    started = time.monotonic()
    report = next(evaluate(job(tmp_path)))
    assert time.monotonic() - started - report.seconds > 0.5
    elsewhere.join()
