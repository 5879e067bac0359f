"""The front measured again: pooled seed by seed, once each, through crashes, drains and failures."""

import json
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

import pytest

from hybridsearch.control import in_process
from hybridsearch.control.confirming import pooled
from hybridsearch.control.loop import Controller
from hybridsearch.control.standing import standing
from hybridsearch.errors import FailureReason, TrialFailure
from hybridsearch.search.scheduler import Action
from hybridsearch.settings import EvaluationSettings
from hybridsearch.trial import Evaluator, Job, Report, TrialState

Make = Callable[..., Any]


def seeds_of(job: Job) -> int:
    return int(json.loads(job.evaluation)["training"]["seeds"])


def climb(controller: Controller, evaluator: Evaluator, job: Job) -> None:
    controller.started(job.trial)
    for report in evaluator(job):
        if controller.report(report) is not Action.CONTINUE:
            return


@pytest.fixture
def noisy(evaluator: Evaluator) -> Evaluator:
    """As the fake, with a value for each seed: the first run of every trial is a lucky one."""

    def evaluate(job: Job) -> Iterator[Report]:
        luck = 0.0 if job.folder.endswith("-confirm") else 0.05
        for report in evaluator(job):
            recall = report.metrics["recall"] + luck
            metrics = {**report.metrics, "recall": recall, "learning_rate": 3e-3}
            yield replace(report, metrics=metrics, replicates={"recall": (recall,) * seeds_of(job)})

    return evaluate


def test_every_member_of_the_front_gets_its_further_seeds_and_nobody_else(make: Make, noisy: Evaluator) -> None:
    search = make(budget={"trials": 10}, confirm=3)
    jobs: list[Job] = []

    def counting(job: Job) -> Iterator[Report]:
        jobs.append(job)
        yield from noisy(job)

    in_process.run(search.controller(), counting)
    trials = search.store.trials("s")
    confirmed = {t.number for t in trials if t.reports and t.reports[-1].rung == 3}
    front = {p.trial for p in standing(search.settings, trials).front}
    again = [job for job in jobs if job.folder.endswith("-confirm")]
    assert front <= confirmed
    assert sorted(job.trial for job in again) == sorted(confirmed)
    assert {seeds_of(job) for job in again} == {3}
    assert all(len(job.rungs) == 1 and job.rungs[0].steps == 100 for job in again)
    first = {job.trial: job for job in jobs if not job.folder.endswith("-confirm")}
    assert all(job.seed != first[job.trial].seed for job in again)
    for trial in (t for t in trials if t.number in confirmed):
        lucky = trial.reports[-2].metrics["recall"]
        values = trial.reports[-1].replicates["recall"]
        assert values == pytest.approx((lucky, *[lucky - 0.05] * 3))
        assert trial.reports[-1].metrics["recall"] == pytest.approx(lucky - 0.0375)
        assert trial.reports[-1].metrics["cache_bytes"] == trial.reports[-2].metrics["cache_bytes"]
    assert {t.state for t in trials} == {TrialState.FINISHED, TrialState.STOPPED}
    assert [e.trial for e in search.store.events("s") if e.kind == "confirm"] == [job.trial for job in again]


def test_the_controllers_front_is_that_of_the_store_afterwards(make: Make, noisy: Evaluator) -> None:
    search = make(budget={"trials": 10}, confirm=2)
    controller = search.controller()
    in_process.run(controller, noisy)
    whole = standing(search.settings, search.store.trials("s"))
    assert {p.trial for p in controller.snapshot().front} == {p.trial for p in whole.front}
    assert controller.snapshot().hypervolume == pytest.approx(whole.hypervolume)
    again = search.controller()
    assert again.snapshot().hypervolume == pytest.approx(whole.hypervolume)
    assert again.next_job() is None
    assert again.finished


@pytest.mark.parametrize("killed_after", range(4))
def test_a_confirmation_that_is_killed_is_done_once_more_and_no_other(
    make: Make, noisy: Evaluator, killed_after: int
) -> None:
    search = make(budget={"trials": 6}, confirm=1)
    controller = search.controller()
    while (job := controller.next_job()) is not None:
        if job.folder.endswith("-confirm"):
            if killed_after == 0:
                break  # killed with the job at a worker
            killed_after -= 1
        climb(controller, noisy, job)
    before = {t.number: t.reports for t in search.store.trials("s")}
    in_process.run(search.controller(), noisy)
    after = search.store.trials("s")
    front = {p.trial for p in standing(search.settings, after).front}
    assert front <= {t.number for t in after if t.reports[-1].rung == 3}
    assert all(t.reports[: len(before[t.number])] == before[t.number] for t in after)


def test_one_that_fails_is_said_so_and_keeps_its_numbers(make: Make, noisy: Evaluator) -> None:
    search = make(budget={"trials": 6}, confirm=1)

    def failing(job: Job) -> Iterator[Report]:
        if job.folder.endswith("-confirm"):
            raise TrialFailure(FailureReason.OUT_OF_MEMORY, "wanted 9 GB")
        yield from noisy(job)

    controller = search.controller()
    in_process.run(controller, failing)
    assert controller.finished
    front = controller.snapshot().front
    said = [e.message for e in search.store.events("s") if e.kind == "confirm"]
    assert len(said) == len(front) > 0
    assert all("could not be measured again: wanted 9 GB" in message for message in said)
    assert {search.store.trial("s", p.trial).state for p in front} == {TrialState.FINISHED}


def test_a_drain_leaves_the_rest_for_a_resume(make: Make, noisy: Evaluator) -> None:
    search = make(budget={"trials": 6}, confirm=1)
    controller = search.controller()
    while (job := controller.next_job()) is not None and not job.folder.endswith("-confirm"):
        climb(controller, noisy, job)
    assert job is not None
    controller.started(job.trial)
    controller.drain()
    controller.paused(job.trial)
    assert controller.finished
    assert search.store.trial("s", job.trial).state is TrialState.FINISHED
    assert search.controller().next_job().trial == job.trial


def test_metrics_that_no_seed_varies_stay_as_they_were() -> None:
    known = Report(trial=0, rung=2, steps=9, metrics={"recall": 0.8, "speed": 5.0}, replicates={"recall": (0.7, 0.9)})
    further = Report(trial=0, rung=2, steps=9, metrics={"recall": 0.5, "speed": 9.0}, replicates={"recall": (0.5,)})
    found = pooled(known, further, 3)
    assert found.metrics == pytest.approx({"recall": 0.7, "speed": 5.0})
    assert (found.rung, found.replicates) == (3, {"recall": (0.7, 0.9, 0.5)})


def test_it_asks_for_its_own_number_of_seeds_whatever_the_rungs_have(make: Make, noisy: Evaluator) -> None:
    rates = {"training": {"learning_rates": [1e-3, 3e-3]}}
    evaluation = {"rungs": {"steps": [25, 50, 100], "seeds": [1, 2, 4], "learning_rates": [2, 2, 1]}, **rates}
    search = make(budget={"trials": 4}, confirm=3, evaluation=evaluation)
    jobs: list[Job] = []

    def counting(job: Job) -> Iterator[Report]:
        jobs.append(job)
        yield from noisy(job)

    in_process.run(search.controller(), counting)
    assert [f.seeds for f in jobs[0].rungs] == [1, 2, 4]
    assert {(seeds_of(j), j.rungs[0].seeds) for j in jobs if j.folder.endswith("-confirm")} == {(3, None)}
    asked = [EvaluationSettings.model_validate_json(j.evaluation) for j in jobs if j.folder.endswith("-confirm")]
    assert {(a.training.learning_rates, a.rungs.learning_rates) for a in asked} == {((3e-3,), None)}
