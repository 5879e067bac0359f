"""An evaluator as a Ray Tune function: a job comes in as plain values, reports and failures go out as plain values.

A failure is an ordinary result, so that its reason reaches the controller; only a worker that dies has none.
"""

from collections.abc import Callable, Mapping
from dataclasses import asdict
from typing import Any

from ray import tune

from hybridsearch.errors import FailureReason, TrialFailure
from hybridsearch.trial import Evaluator, Failure, Fidelity, Job, Measurement, Report

Message = dict[str, Any]


def trainable(evaluator: Evaluator) -> Callable[[Mapping[str, Any]], None]:
    """The Tune function that runs `evaluator` on `config["job"]` and waits after every report for the decision."""

    def run(config: Mapping[str, Any]) -> None:
        job = decode_job(config["job"])
        try:
            for report in evaluator(job):
                tune.report({"report": asdict(report)})
        except TrialFailure as failure:
            told = Failure(trial=job.trial, reason=failure.reason, message=str(failure))
            tune.report({"failure": asdict(told)})

    return run


def encode_job(job: Job) -> Message:
    """A job as plain values."""
    return asdict(job)


def decode_job(message: Mapping[str, Any]) -> Job:
    """The job that `encode_job` made plain."""
    return Job(**{**message, "rungs": tuple(Fidelity(**rung) for rung in message["rungs"])})


def decode_report(message: Mapping[str, Any]) -> Report:
    """The report of a result."""
    plain = {
        **message,
        "replicates": {name: tuple(values) for name, values in message["replicates"].items()},
        "measurements": tuple(Measurement(**m) for m in message["measurements"]),
    }
    return Report(**plain)


def decode_failure(message: Mapping[str, Any]) -> Failure:
    """The failure of a result."""
    return Failure(**{**message, "reason": FailureReason(message["reason"])})
