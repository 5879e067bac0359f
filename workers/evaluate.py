"""Runs a job: parse, build, train from rung to rung, measure, report. An `hybridsearch.trial.Evaluator`."""

import time
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path

import torch
from torch import Tensor

from hybridsearch.errors import FailureReason, TrialFailure, TrialPaused
from hybridsearch.models.language_model import LanguageModel
from hybridsearch.models.routing import softmax_share
from hybridsearch.seeds import derive
from hybridsearch.settings import EvaluationSettings
from hybridsearch.spec import canonical
from hybridsearch.tasks.catalog import TASKS
from hybridsearch.training import exclusive, meter, proxy
from hybridsearch.training.replicate import Plan, in_bfloat16
from hybridsearch.trial import Fidelity, Job, Report
from hybridsearch.workers import device as machine
from hybridsearch.workers.checkpoint import Folder
from hybridsearch.workers.guard import guarded

SECONDS_UNWATCHED = 0.5
"""Time between two looks at the clock and at the drain flag, which may lie on a slow file system."""


def evaluate(job: Job) -> Iterator[Report]:
    """Train to every rung of the job and report each; go on from what the job's folder holds.

    Throughput is measured at the job's first rung, and again at the last one if the model routes tokens, because
    routing is learned. A report is kept in the folder before it is handed out, and repeated if the job comes again.

    Raises:
        TrialFailure: whatever went wrong, with a reason.
        TrialPaused: the study's folder holds the file `drain`; the trial's folder holds all work done so far.
    """
    with guarded():
        folder = Folder(job)
        waiting = list(job.rungs)
        while waiting and (made := folder.read(waiting[0].rung)):
            waiting.pop(0)
            yield made
        if waiting:
            yield from _Work(job, folder).reports(waiting)


class _Work:
    """The part of a job that is still to do."""

    def __init__(self, job: Job, folder: Folder, clock: Callable[[], float] = time.monotonic) -> None:
        self._job, self._folder, self._clock = job, folder, clock
        settings = EvaluationSettings.model_validate_json(job.evaluation)
        device = machine.choose(settings.device)
        self._plan = Plan(
            architecture=canonical.parse(job.architecture), evaluation=settings, seed=job.seed, device=device
        )
        self._slot = exclusive.Slot(finish=partial(_finish, device))
        self._drain = Path(job.folder).parents[1] / "drain"
        self._begin()

    def reports(self, rungs: Sequence[Fidelity]) -> Iterator[Report]:
        around = proxy.Surroundings(self._slot, self._folder, self._look, self._clock)
        throughput: meter.Throughput | None = None
        try:
            for reached in proxy.train(self._plan, rungs, around):
                last = reached.fidelity == self._plan.evaluation.rungs.ladder[-1]
                share = softmax_share(reached.model)
                if throughput is None or (last and share is not None):
                    throughput = self._measured(reached.model)
                report = self._report(reached, throughput, share)
                self._folder.write(report)
                if last:
                    self._folder.drop_snapshot()
                yield report
                self._begin()
        finally:
            self._slot.close()

    def _begin(self) -> None:
        """Start the time to the next report."""
        self._started, self._waited, self._watched = self._clock(), self._slot.waited, 0.0

    def _look(self) -> None:
        now = self._clock()
        if now - self._watched < SECONDS_UNWATCHED:
            return
        self._watched = now
        if self._drain.exists():
            raise TrialPaused("the search is draining")
        if now - self._started > self._job.timeout_seconds:
            raise TrialFailure(
                FailureReason.TIMED_OUT, f"no report within {self._job.timeout_seconds:g} s (workers.timeout_minutes)"
            )

    def _measured(self, model: LanguageModel) -> meter.Throughput:
        plan, task = self._plan, self._plan.evaluation.task
        generator = torch.Generator(plan.device).manual_seed(derive(plan.seed, "timing"))

        def tokens(batch: int, length: int) -> Tensor:
            return TASKS[task.name].tokens(task, batch, length, generator)

        # As it would be served: with products in bfloat16 the weights are in bfloat16 too.
        dtype = torch.bfloat16 if in_bfloat16(plan) else None
        with exclusive.measuring(self._slot):
            return meter.measure(model, plan.evaluation.throughput, tokens, plan.device, dtype)

    def _report(self, reached: proxy.Reached, throughput: meter.Throughput, share: float | None) -> Report:
        shares = {} if share is None else {"softmax_share": share}
        waited = self._slot.waited - self._waited
        return Report(
            trial=self._job.trial,
            rung=reached.fidelity.rung,
            steps=reached.fidelity.steps,
            metrics={**reached.metrics, **throughput.metrics, **shares},
            replicates=reached.replicates,
            measurements=throughput.measurements,
            seconds=self._clock() - self._started - waited,
            device=machine.describe(self._plan.device),
            peak_bytes=reached.peak_bytes,
        )


def _finish(device: torch.device) -> None:
    """Wait for a GPU's queue, so that nothing runs on after the room was left."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
