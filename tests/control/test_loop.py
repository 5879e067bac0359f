"""The controller by events: order, decisions, budgets, failures, resume. No Ray, no torch."""

from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

import pytest

from hybridsearch.control import in_process
from hybridsearch.control.loop import Controller
from hybridsearch.errors import FailureReason, Infeasible, TrialFailure
from hybridsearch.search.scheduler import Action
from hybridsearch.settings import SearchSettings
from hybridsearch.trial import Evaluator, Failure, Job, Report, TrialState

Make = Callable[..., Any]


def run_some(controller: Controller, evaluator: Evaluator, jobs: int) -> list[Job]:
    """Run that many jobs to their end and stop there, as a controller that is killed between two jobs."""
    done = []
    for _ in range(jobs):
        job = controller.next_job()
        assert job is not None
        controller.started(job.trial)
        for report in evaluator(job):
            if controller.report(report) is not Action.CONTINUE:
                break
        done.append(job)
    return done


def outcomes(search: Any) -> list[tuple[int, str, TrialState, int]]:
    return [(t.number, t.candidate.hash, t.state, len(t.reports)) for t in search.store.trials("s")]


def test_controls_run_first_and_always_to_the_last_rung(make: Make, evaluator: Evaluator) -> None:
    search = make()
    in_process.run(search.controller(), evaluator)
    trials = search.store.trials("s")
    assert [t.control for t in trials[:3]] == ["full", "linear", "three_to_one"]
    assert {t.state for t in trials[:3]} == {TrialState.FINISHED}
    assert all(len(t.reports) == 3 for t in trials[:3])


def test_the_budget_counts_trials_beside_controls(make: Make, evaluator: Evaluator) -> None:
    search = make()
    in_process.run(search.controller(), evaluator)
    trials = search.store.trials("s")
    assert len(trials) == 8 + 3
    assert {t.state for t in trials} <= {TrialState.FINISHED, TrialState.STOPPED}
    assert len({t.candidate.hash for t in trials}) == len(trials)


def test_early_stopping_stops_some_and_says_why(make: Make, evaluator: Evaluator) -> None:
    search = make(budget={"trials": 30})
    in_process.run(search.controller(), evaluator)
    stopped = search.store.trials("s", {TrialState.STOPPED})
    assert stopped
    assert all("position" in t.message and "go on" in t.message for t in stopped)
    reasons = {e.trial: e for e in search.store.events("s") if e.kind == "stopped"}
    assert all(reasons[t.number].rank is not None for t in stopped)


def test_without_early_stopping_everything_finishes(make: Make, evaluator: Evaluator) -> None:
    search = make(stopping="off")
    in_process.run(search.controller(), evaluator)
    assert {t.state for t in search.store.trials("s")} == {TrialState.FINISHED}


@pytest.mark.parametrize("killed_after", range(0, 10, 3))
def test_a_killed_search_goes_on_as_if_nothing_had_happened(
    make: Make, evaluator: Evaluator, killed_after: int
) -> None:
    undisturbed, killed = make(), make()
    in_process.run(undisturbed.controller(), evaluator)
    run_some(killed.controller(), evaluator, killed_after)
    in_process.run(killed.controller(), evaluator)
    assert outcomes(killed) == outcomes(undisturbed)


def test_a_trial_killed_on_its_way_keeps_its_rungs_and_is_not_run_twice(make: Make, evaluator: Evaluator) -> None:
    search = make()
    first = search.controller()
    job = first.next_job()
    first.started(job.trial)
    reports = list(evaluator(job))
    first.report(reports[0])
    again = search.controller().next_job()
    assert again.trial == job.trial
    assert [f.rung for f in again.rungs] == [1, 2]
    assert again.seed == job.seed


def test_a_report_told_twice_counts_once(make: Make, evaluator: Evaluator) -> None:
    search = make()
    controller = search.controller()
    job = controller.next_job()
    controller.started(job.trial)
    report = next(iter(evaluator(job)))
    assert controller.report(report) is Action.CONTINUE
    assert controller.report(replace(report, metrics={**report.metrics, "recall": 0.0})) is Action.CONTINUE
    (trial,) = [t for t in search.store.trials("s") if t.number == job.trial]
    assert [r.metrics["recall"] for r in trial.reports] == [report.metrics["recall"]]


def test_failures_end_one_trial_and_never_reach_the_front(make: Make, evaluator: Evaluator) -> None:
    search = make()

    def sometimes(job: Job) -> Iterator[Report]:
        if job.trial % 4 == 3:
            raise TrialFailure(FailureReason.OUT_OF_MEMORY, "tried to take 9 GB")
        yield from evaluator(job)

    controller = search.controller()
    in_process.run(controller, sometimes)
    failed = search.store.trials("s", {TrialState.FAILED})
    assert {t.number for t in failed} == {3, 7}
    assert {t.reason for t in failed} == {FailureReason.OUT_OF_MEMORY}
    assert not {p.trial for p in controller.snapshot().front} & {3, 7}


def test_not_a_number_is_a_failure_with_a_reason(make: Make, evaluator: Evaluator) -> None:
    search = make()
    controller = search.controller()
    job = controller.next_job()
    controller.started(job.trial)
    report = next(iter(evaluator(job)))
    broken = replace(report, metrics={**report.metrics, "answer_loss": float("nan")})
    assert controller.report(broken) is Action.STOP
    trial = search.store.trial("s", job.trial)
    assert (trial.state, trial.reason) == (TrialState.FAILED, FailureReason.NOT_A_NUMBER)
    assert "answer_loss" in trial.message


def test_a_lost_worker_is_tried_again_once_and_then_given_up(make: Make, evaluator: Evaluator) -> None:
    search = make()
    controller = search.controller()
    job = controller.next_job()
    controller.started(job.trial)
    lost = Failure(trial=job.trial, reason=FailureReason.WORKER_LOST, message="its worker process died")
    controller.failed(lost)
    assert search.store.trial("s", job.trial).state is TrialState.WAITING
    again = controller.next_job()
    assert again.trial == job.trial
    controller.started(again.trial)
    controller.failed(lost)
    trial = search.store.trial("s", job.trial)
    assert (trial.state, trial.reason) == (TrialState.FAILED, FailureReason.WORKER_LOST)
    assert not controller.finished


def test_out_of_memory_is_tried_again_once_with_a_larger_share(make: Make) -> None:
    search = make()
    controller = search.controller()
    job = controller.next_job()
    short = Failure(trial=job.trial, reason=FailureReason.OUT_OF_MEMORY, message="wanted 9 GB")
    controller.failed(short)
    again = controller.next_job()
    assert (again.trial, job.share, again.share) == (job.trial, 1.0, 2.0)
    controller.failed(short)
    trial = search.store.trial("s", job.trial)
    assert (trial.state, trial.reason) == (TrialState.FAILED, FailureReason.OUT_OF_MEMORY)
    assert controller.next_job().share == 1.0


def test_a_drain_proposes_nothing_and_asks_the_workers(make: Make, evaluator: Evaluator) -> None:
    search = make()
    controller = search.controller()
    job = controller.next_job()
    controller.started(job.trial)
    controller.drain()
    assert controller.next_job() is None
    assert not controller.finished
    controller.tick()
    assert (search.places.study("s") / "drain").exists()
    controller.paused(job.trial)
    assert controller.finished
    assert search.store.trial("s", job.trial).state is TrialState.PAUSED
    assert search.controller().next_job().trial == job.trial


def test_constraints_screen_before_training(make: Make, evaluator: Evaluator) -> None:
    search = make(constraints={"full_layers": {"maximum": 1}}, budget={"trials": 4})
    in_process.run(search.controller(), evaluator)
    screened = search.store.trials("s", {TrialState.SCREENED})
    assert screened
    assert all("full_layers" in t.message or "full_layers" in t.note for t in screened)
    assert all(not t.reports for t in screened)


def test_an_impossible_constraint_is_told_before_the_search(make: Make) -> None:
    with pytest.raises(Infeasible, match=r"parameters .* is above 10"):
        make(constraints={"parameters": {"maximum": 10}})


def test_a_search_that_screens_everything_ends_as_infeasible(make: Make, evaluator: Evaluator) -> None:
    search = make(budget={"trials": 4})
    impossible = {"parameters": {"maximum": 10}}
    search.plan = replace(search.plan, settings=SearchSettings(space="given", constraints=impossible))
    with pytest.raises(Infeasible, match="parameters"):
        in_process.run(search.controller(), evaluator)


def test_minutes_end_a_search_and_are_summed_over_resumes(make: Make, evaluator: Evaluator) -> None:
    search = make(budget={"minutes": 10})
    search.store.heartbeat("s", 11 * 60)
    controller = search.controller()
    jobs = run_some(controller, evaluator, 3)
    assert [search.store.trial("s", job.trial).control for job in jobs] == ["full", "linear", "three_to_one"]
    assert controller.next_job() is None
    assert controller.finished


def test_the_front_is_the_non_dominated_set_of_finished_trials(make: Make, evaluator: Evaluator) -> None:
    search = make(budget={"trials": 12}, stopping="off")
    controller = search.controller()
    in_process.run(controller, evaluator)
    values = {
        t.number: (t.reports[-1].metrics["recall"], t.reports[-1].metrics["decode_tokens_per_second"])
        for t in search.store.trials("s")
    }
    expected = {
        n
        for n, (recall, speed) in values.items()
        if not any(r >= recall and s >= speed and (r, s) != (recall, speed) for r, s in values.values())
    }
    assert {p.trial for p in controller.snapshot().front} == expected


def test_an_equal_candidate_of_another_study_lends_its_numbers(make: Make, evaluator: Evaluator) -> None:
    search = make(stopping="off")
    store = search.store
    store.create_study(
        "t", search.settings.model_dump_json(), seed=0, space_json="{}", versions={}, evaluation_digest="d"
    )
    store.create_study(
        "u", search.settings.model_dump_json(), seed=0, space_json="{}", versions={}, evaluation_digest="d"
    )
    ran = []

    def counting(job: Job) -> Iterator[Report]:
        ran.append((job.study, job.hash))
        yield from evaluator(job)

    for study in ("t", "u"):
        in_process.run(search.controller(study=study), counting)
    assert [study for study, _ in ran if study == "u"] == []
    assert outcomes_of(store.trials("u")) == outcomes_of(store.trials("t"))


def outcomes_of(trials: list[Any]) -> list[tuple[str, float]]:
    return [(t.candidate.hash, t.reports[-1].metrics["recall"]) for t in trials]


def test_promotion_pauses_promotes_and_leaves_nobody_waiting_at_the_end(make: Make, evaluator: Evaluator) -> None:
    search = make(budget={"trials": 24}, stopping="promote")
    in_process.run(search.controller(), evaluator)
    assert {t.state for t in search.store.trials("s")} == {TrialState.FINISHED, TrialState.STOPPED}
    events = search.store.events("s")
    promoted = [e for e in events if e.kind == "promote"]
    assert promoted
    assert all(e.rung is not None and e.rank is not None and "go" in e.message for e in promoted)
    for event in promoted:
        before = [e.kind for e in events if e.trial == event.trial and e.id < event.id]
        assert "paused" in before
    left = search.store.trials("s", {TrialState.STOPPED})
    assert left and all(t.message.endswith("search is over") for t in left)


def test_paused_trials_cost_no_more_than_their_rung(make: Make, evaluator: Evaluator) -> None:
    search = make(budget={"trials": 30}, stopping="promote")
    steps = []

    def counting(job: Job) -> Iterator[Report]:
        for report in evaluator(job):
            steps.append((job.trial, report.rung))
            yield report

    in_process.run(search.controller(), counting)
    assert len(steps) == len(set(steps))  # no rung is trained twice
    counts = [sum(rung == r and trial > 2 for trial, rung in steps) for r in range(3)]
    assert counts[0] == 30 and counts[0] > counts[1] > counts[2] > 0


@pytest.mark.parametrize("killed_after", range(1, 40, 4))
def test_a_promoting_search_that_is_killed_goes_on_as_if_nothing_had_happened(
    make: Make, evaluator: Evaluator, killed_after: int
) -> None:
    undisturbed, killed = (make(budget={"trials": 12}, stopping="promote") for _ in range(2))
    in_process.run(undisturbed.controller(), evaluator)
    controller = killed.controller()
    left = killed_after
    while left and (job := controller.next_job()) is not None:
        controller.started(job.trial)
        for report in evaluator(job):
            left -= 1
            if controller.report(report) is not Action.CONTINUE or not left:
                break  # killed between two reports as well as between two jobs
    in_process.run(killed.controller(), evaluator)
    assert outcomes(killed) == outcomes(undisturbed)


def test_a_drained_trial_goes_on_at_once_and_one_that_waits_at_a_rung_does_not(
    make: Make, evaluator: Evaluator
) -> None:
    search = make(stopping="promote")
    controller = search.controller()
    run_some(controller, evaluator, 3)  # the controls
    waits = controller.next_job()
    controller.started(waits.trial)
    first = next(iter(evaluator(waits)))
    action = controller.report(
        replace(first, metrics={**first.metrics, "answer_loss": 9.0, "decode_tokens_per_second": 1.0})
    )
    assert action is Action.PAUSE
    drained = controller.next_job()
    controller.started(drained.trial)
    controller.drain()
    controller.paused(drained.trial)
    again = search.controller()
    assert again.next_job().trial == drained.trial
    assert {search.store.trial("s", n).state for n in (waits.trial, drained.trial)} == {TrialState.PAUSED}
    assert search.store.waiting_at_rung("s") == {waits.trial}


def test_time_that_is_spent_promotes_nobody(make: Make, evaluator: Evaluator) -> None:
    search = make(budget={"minutes": 10}, stopping="promote")
    controller = search.controller()
    run_some(controller, evaluator, 8)
    assert search.store.waiting_at_rung("s")
    search.store.heartbeat("s", 11 * 60)
    late = search.controller()
    assert late.next_job() is None
    assert late.finished
    assert search.store.trials("s", {TrialState.STOPPED}) and not search.store.trials("s", {TrialState.PAUSED})


def test_attempts_are_counted_over_resumes(make: Make) -> None:
    search = make(workers={"retries": 2})
    lost = FailureReason.WORKER_LOST
    for begun in (True, False):  # a worker may be lost before it has begun
        controller = search.controller()
        job = controller.next_job()
        if begun:
            controller.started(job.trial)
        controller.failed(Failure(trial=job.trial, reason=lost, message="its worker process died"))
        assert search.store.trial("s", job.trial).state is TrialState.WAITING
    controller = search.controller()
    assert not controller.comes_again(0, lost)
    assert controller.next_job().trial == 0
    controller.failed(Failure(trial=0, reason=lost, message="its worker process died"))
    assert search.store.trial("s", 0).reason is lost


def test_the_larger_share_is_kept_over_a_resume(make: Make) -> None:
    search = make()
    controller = search.controller()
    job = controller.next_job()
    controller.started(job.trial)
    controller.failed(Failure(trial=job.trial, reason=FailureReason.OUT_OF_MEMORY, message="wanted 9 GB"))
    again = search.controller().next_job()
    assert (again.trial, again.share) == (job.trial, 2.0)
