"""An evaluator as a Ray Tune function: a job comes in, and what the worker has to say goes out, as JSON.

A failure is an ordinary result, so that its reason reaches the controller; only a worker that dies has none. Tune
would flatten nested values of a result into names with slashes: hence the JSON.
"""

import json
from collections.abc import Callable, Mapping
from dataclasses import asdict
from typing import Any

from ray import tune

from hybridsearch.errors import FailureReason, TrialFailure, TrialPaused
from hybridsearch.trial import Evaluator, Failure, Fidelity, Job, Measurement, Report

SPOILING = (FailureReason.KERNEL,)
"""Failures after which a process trains nothing more: a CUDA error stays with it, and every later call fails too."""


def trainable(evaluator: Evaluator) -> Callable[[Mapping[str, Any]], None]:
    """The Tune function that runs `evaluator` on `config["job"]` and waits after every report for the decision."""

    def run(config: Mapping[str, Any]) -> None:
        job = decode_job(config["job"])
        try:
            for report in evaluator(job):
                tune.report({"report": json.dumps(asdict(report))})
        except TrialPaused:
            tune.report({"paused": True})
        except TrialFailure as failure:
            told = Failure(trial=job.trial, reason=failure.reason, message=str(failure))
            tune.report({"failure": json.dumps(asdict(told))})
            if failure.reason in SPOILING:
                raise  # Tune ends the process of a function that raises, and uses any other again

    return run


def encode_job(job: Job) -> str:
    """A job as JSON."""
    return json.dumps(asdict(job))


def decode_job(message: str) -> Job:
    """The job that `encode_job` wrote."""
    plain = json.loads(message)
    return Job(**{**plain, "rungs": tuple(Fidelity(**rung) for rung in plain["rungs"])})


def decode_report(message: str) -> Report:
    """The report of a result."""
    plain = json.loads(message)
    replicates = {name: tuple(values) for name, values in plain["replicates"].items()}
    measurements = tuple(Measurement(**measurement) for measurement in plain["measurements"])
    return Report(**{**plain, "replicates": replicates, "measurements": measurements})


def decode_failure(message: str) -> Failure:
    """The failure of a result."""
    plain = json.loads(message)
    return Failure(**{**plain, "reason": FailureReason(plain["reason"])})
