"""Runs a controller's jobs one after the other in this process: the smallest executor, for tests and replay."""

from hybridsearch.control.loop import Controller
from hybridsearch.errors import TrialFailure
from hybridsearch.search.scheduler import Action
from hybridsearch.trial import Evaluator, Failure, Job


def run(controller: Controller, evaluator: Evaluator) -> None:
    """Run until the controller has nothing more to propose."""
    while (job := controller.next_job()) is not None:
        controller.started(job.trial)
        try:
            _climb(controller, evaluator, job)
        except TrialFailure as failure:
            controller.failed(Failure(trial=job.trial, reason=failure.reason, message=str(failure)))
        controller.tick()


def _climb(controller: Controller, evaluator: Evaluator, job: Job) -> None:
    for report in evaluator(job):
        if controller.report(report) is not Action.CONTINUE:
            return
