"""Throughput foretold: only where it is known to be right, and only what is slow beyond its error is turned down."""

from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

from hybridsearch.control import in_process
from hybridsearch.control.forecast import model_of
from hybridsearch.trial import Evaluator, Job, Report, TrialState

Make = Callable[..., Any]
METRIC = "decode_tokens_per_second"
LIMIT = {METRIC: {"minimum": 1200.0}}


def test_foretold_slow_candidates_are_never_trained(make: Make, evaluator: Evaluator) -> None:
    """The fake's tokens a second are 1e4 / (depth + 3 full): seconds add up exactly."""
    search = make(budget={"trials": 60}, constraints=LIMIT, screen_error=0.05, sampler="random")
    in_process.run(search.controller(), evaluator)
    screened = search.store.trials("s", {TrialState.SCREENED})
    assert screened
    assert all(f"{METRIC} " in t.note and "is below 1200 as foretold" in t.note for t in screened)
    for trial in screened:
        (report,) = evaluator_of(evaluator, trial.candidate.canonical, trial.candidate.hash)
        assert report.metrics[METRIC] < 1200
    first = min(t.number for t in screened)
    late = [t for t in search.store.trials("s") if t.number > first and t.reports]
    assert late and all(t.reports[0].metrics[METRIC] > 1150 for t in late)


def evaluator_of(evaluator: Evaluator, canonical: str, digest: str) -> list[Report]:
    from hybridsearch.trial import Fidelity

    job = Job(study="s", trial=0, hash=digest, architecture=canonical, seed=0, rungs=(Fidelity(rung=0, steps=25),),
              evaluation="{}", folder="x")  # fmt: skip
    return list(evaluator(job))


def test_it_is_off_by_default(make: Make, evaluator: Evaluator) -> None:
    search = make(budget={"trials": 60}, constraints=LIMIT, sampler="random")
    in_process.run(search.controller(), evaluator)
    assert not search.store.trials("s", {TrialState.SCREENED})


def test_a_model_with_a_large_error_screens_nobody(make: Make, evaluator: Evaluator) -> None:
    def erratic(job: Job) -> Iterator[Report]:
        factor = 0.3 + int(job.hash[4:8], 16) / 65536 * 3
        for report in evaluator(job):
            yield replace(report, metrics={**report.metrics, METRIC: report.metrics[METRIC] * factor})

    search = make(budget={"trials": 60}, constraints=LIMIT, screen_error=0.1, sampler="random")
    in_process.run(search.controller(), erratic)
    assert not search.store.trials("s", {TrialState.SCREENED})
    model = model_of(reversed(search.store.trials("s")), METRIC)
    assert model is not None and model.error.most > 0.1
