"""What the ledger follows in memory: the same as reading the store anew, and no more than decisions need."""

import gc
import json
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

import pytest

from hybridsearch.control import in_process
from hybridsearch.control.candidates import NewTrial, describe
from hybridsearch.control.ledger import Ledger
from hybridsearch.control.loop import Controller
from hybridsearch.control.snapshot import take
from hybridsearch.control.standing import standing
from hybridsearch.errors import FailureReason, TrialFailure
from hybridsearch.reporting.reporter import NullReporter
from hybridsearch.search.scheduler import Action
from hybridsearch.spec.canonical import parse
from hybridsearch.trial import Evaluator, Failure, Job, Report, TrialState

Make = Callable[..., Any]


def read(search: Any) -> Ledger:
    """A ledger as a process would have it that starts now."""
    return Ledger(search.store, "s", search.settings, NullReporter(), lambda event: None)


def assert_same(live: Ledger, fresh: Ledger) -> None:
    assert live.history.observations == fresh.history.observations
    assert live.history.hashes == fresh.history.hashes
    for rung in range(3):
        assert live.history.entries(rung) == fresh.history.entries(rung)
        assert live.history.paused(rung) == fresh.history.paused(rung)
    assert (live.waiting, live.unfinished, live.counted) == (fresh.waiting, fresh.unfinished, fresh.counted)
    assert (live.counts(), live.labels(), live.controls) == (fresh.counts(), fresh.labels(), fresh.controls)
    assert sorted(live.unconfirmed) == sorted(fresh.unconfirmed)
    assert live.hypervolume == pytest.approx(fresh.hypervolume, rel=1e-12)
    assert live.front_points() == fresh.front_points()
    assert [live.record(number) for number in live.unfinished] == [fresh.record(number) for number in fresh.unfinished]


@pytest.fixture
def breaking(evaluator: Evaluator) -> Evaluator:
    """As the fake; every seventh trial breaks at its second rung, every ninth is no number."""

    def evaluate(job: Job) -> Iterator[Report]:
        for report in evaluator(job):
            if job.trial % 7 == 3 and report.rung == 1:
                raise TrialFailure(FailureReason.KERNEL, "no luck")
            yield replace(report, metrics={"recall": 0.5}) if job.trial % 9 == 5 else report

    return evaluate


@pytest.mark.parametrize("stopping", ["promote", "stop", "off"])
def test_after_every_answer_it_is_the_ledger_that_a_new_process_reads(
    make: Make, breaking: Evaluator, stopping: str
) -> None:
    search = make(budget={"trials": 24}, stopping=stopping, sampler="random")
    controller: Controller = search.controller()
    live: Ledger = controller._ledger
    assert_same(live, read(search))
    out: list[tuple[Job, Iterator[Report]]] = []
    while (job := controller.next_job()) is not None or out:
        if job is not None:
            controller.started(job.trial)
            out.append((job, breaking(job)))
            if len(out) < 3:
                continue
        ran, reports = out.pop(0)
        try:
            if controller.report(next(reports)) is Action.CONTINUE:
                out.append((ran, reports))
        except TrialFailure as failure:
            controller.failed(Failure(trial=ran.trial, reason=failure.reason, message=str(failure)))
        assert_same(live, read(search))
    seen = take(live, controller.spent, 1.0)
    assert seen.counts == live.labels() and not seen.running
    whole = standing(search.settings, search.store.trials("s"))
    assert {p.trial for p in seen.front} == {p.trial for p in whole.front}
    assert sorted(live.points(), key=lambda p: p.trial) == list(whole.points)


def test_of_trials_that_ended_or_wait_no_report_is_kept(make: Make, evaluator: Evaluator) -> None:
    def alive() -> list[Report]:
        gc.collect()
        return [found for found in gc.get_objects() if type(found) is Report]

    others = alive()
    search = make(budget={"trials": 20}, stopping="promote", sampler="random")
    controller: Controller = search.controller()
    job = controller.next_job()
    while job is not None:
        controller.started(job.trial)
        for report in evaluator(job):
            if controller.report(report) is not Action.CONTINUE:
                break
        del report
        job = controller.next_job()
        kept = {report.trial for report in alive() if not any(report is other for other in others)}
        assert kept <= set(controller._ledger.unfinished)
    assert {t.state for t in search.store.trials("s")} == {TrialState.FINISHED, TrialState.STOPPED}


def test_numbers_of_a_confirmed_trial_are_taken_over_with_their_confirmation(make: Make, evaluator: Evaluator) -> None:
    """A finished trial of another study may have one report more than there are rungs."""
    search = make(budget={"trials": 6}, confirm=2, sampler="random")
    for study in ("first", "second"):
        search.store.create_study(
            study, search.settings.model_dump_json(), seed=0, space_json="{}", versions={}, evaluation_digest="d" * 64
        )

    def noisy(job: Job) -> Iterator[Report]:
        count = json.loads(job.evaluation)["training"]["seeds"]
        for report in evaluator(job):
            yield replace(report, replicates={"recall": (report.metrics["recall"],) * count})

    in_process.run(search.controller("first"), noisy)
    confirmed = [t for t in search.store.trials("first") if t.reports and t.reports[-1].rung == 3]
    assert confirmed
    second = Ledger(search.store, "second", search.settings, NullReporter(), lambda event: None)
    architecture = parse(confirmed[0].candidate.canonical)
    new = NewTrial(
        architecture=architecture, candidate=describe(architecture, 4096), sampler="random", parents=(), control=None,
        seed=1,
    )  # fmt: skip
    number = second.add(new)
    taken = search.store.trial("second", number)
    assert taken.state is TrialState.FINISHED
    assert [r.metrics for r in taken.reports] == [r.metrics for r in confirmed[0].reports]
    assert second.unconfirmed == []
    assert_same(second, Ledger(search.store, "second", search.settings, NullReporter(), lambda event: None))
