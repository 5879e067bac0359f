"""Ray Tune as the executor: a Searcher and a scheduler that hand everything to the controller and keep nothing.

Tune's own state is thrown away: the store is the truth, and a resume starts a fresh Tune run from it. That leaves
out what Tune cannot do: schedulers with several objectives, and rungs that survive a crash.
"""

import os
import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

# First of all: it sets switches that Ray reads when it is imported.
from hybridsearch.control.ray_cluster import Cluster, attached, largest, require_room, room  # isort: split

import ray
from ray import tune
from ray.tune.schedulers import FIFOScheduler, TrialScheduler
from ray.tune.search import Searcher

from hybridsearch.control.loop import Controller
from hybridsearch.control.paces import Paces
from hybridsearch.errors import FailureReason, HybridSearchError
from hybridsearch.search.scheduler import Action
from hybridsearch.settings import WorkerSettings
from hybridsearch.trial import Evaluator, Failure, Job
from hybridsearch.workers.trainable import SPOILING, decode_failure, decode_job, decode_report, encode_job, trainable

GRACE_SECONDS = 30.0
"""Time beyond a time-out and a quarter of it in which a worker may end its trial by itself."""
SLOW = FailureReason.SLOW_WORKER
LOW_ON_MEMORY = "running low on memory"
"""What Ray says of a worker that its memory monitor has killed."""
LOOK_SECONDS = 1.0
"""Time between two looks at how much room the cluster has: machines join and leave."""
PENDING = 10_000
"""Trials that Tune may hold ready to start; how many there are is decided here."""


def run(controller: Controller, evaluator: Evaluator, workers: WorkerSettings, cluster: Cluster) -> None:
    """Run the controller's jobs on Ray until it has nothing more to propose.

    Raises:
        ClusterUnreachable: nobody answers at the address.
        InvalidSetting: a trial asks for more than the cluster has.
    """
    with attached(workers, cluster), tempfile.TemporaryDirectory(prefix="hybridsearch-tune-") as folder:
        require_room(workers)
        os.environ["TUNE_MAX_PENDING_TRIALS_PG"] = str(PENDING)
        desk = _Desk(controller, workers)
        tune.Tuner(
            tune.with_resources(trainable(evaluator), partial(_resources, workers)),
            tune_config=tune.TuneConfig(
                search_alg=_Asker(desk),
                scheduler=_Decider(desk),
                num_samples=-1,
                reuse_actors=True,  # a new process imports torch again: 1.5 s a trial
            ),
            run_config=tune.RunConfig(
                name="search",
                storage_path=folder,
                verbose=0,
                failure_config=tune.FailureConfig(max_failures=0),
                callbacks=[_Clock(desk)],
            ),
        ).fit()
        if desk.broken is not None:
            raise desk.broken


def _resources(workers: WorkerSettings, config: Mapping[str, Any]) -> tune.PlacementGroupFactory:
    """What a job is given: its share of the usual, but no more than one machine has, and never less than the usual."""
    job = decode_job(config["job"])
    limits = [max(own, limit) for own, limit in zip((workers.cpus, workers.gpus), largest(), strict=True)]
    cpus, gpus = min(workers.cpus * job.share, limits[0]), min(workers.gpus * job.share, limits[1])
    if gpus > 1:
        gpus = float(int(gpus))  # Ray gives parts of one GPU, or whole ones
    return tune.PlacementGroupFactory([{"CPU": cpus, "GPU": gpus}])


class _Desk:
    """What the three Tune hooks share: which job each Tune trial carries, since when it was silent, and what broke.

    Tune turns an exception of a hook into a text. It is kept here instead, ends the run, and is raised after it.
    """

    def __init__(self, controller: Controller, workers: WorkerSettings) -> None:
        self.broken: HybridSearchError | None = None
        self.jobs: dict[str, Job] = {}
        self._controller = controller
        self._workers = workers
        self._room, self._looked = 0, -LOOK_SECONDS
        self._paces = Paces(workers.slow_factor)
        self._heard: dict[str, float] = {}
        self._awaited: dict[str, int] = {}
        """Rung that a Tune trial will report next."""

    def __reduce__(self) -> tuple[type[object], tuple[()]]:
        """Tune writes its hooks to disk for a restore that we never ask for: nothing of the search goes there."""
        return object, ()

    @contextmanager
    def _careful(self) -> Iterator[None]:
        try:
            yield
        except HybridSearchError as error:
            self.broken = self.broken or error

    def hand_out(self, trial_id: str) -> Job | None:
        with self._careful():
            taken = sum(job.share for job in self.jobs.values())
            job = self._controller.next_job() if taken + 1 <= self._count() and not self.broken else None
            if job is not None:
                self.jobs[trial_id] = job
            return job
        return None

    def _count(self) -> int:
        now = time.monotonic()
        if now - self._looked >= LOOK_SECONDS:
            self._room, self._looked = room(self._workers), now
        return self._room

    @property
    def finished(self) -> bool:
        return self.broken is not None or self._controller.finished

    def started(self, trial_id: str) -> None:
        self._heard[trial_id] = time.monotonic()
        self._awaited[trial_id] = self.jobs[trial_id].rungs[0].rung
        with self._careful():
            self._controller.started(self.jobs[trial_id].trial)

    def hear(self, trial_id: str, result: Mapping[str, Any]) -> Action:
        """Pass on what a worker says, and answer whether its trial goes on (to its end, if its process is spoilt)."""
        silent = self._silence(trial_id)
        self._heard[trial_id] = time.monotonic()
        with self._careful():
            if "report" in result:
                report = decode_report(result["report"])
                self._paces.record(report.rung, silent)
                self._awaited[trial_id] = report.rung + 1
                action = self._controller.report(report)
                if action is not Action.CONTINUE:  # a paused trial may be out again before Tune has closed this one
                    del self.jobs[trial_id]
                return action
            if "paused" in result:
                self._controller.paused(self.jobs.pop(trial_id).trial)
            elif "failure" in result:
                failure = decode_failure(result["failure"])
                self._controller.failed(failure)
                del self.jobs[trial_id]
                return Action.CONTINUE if failure.reason in SPOILING else Action.STOP
        return Action.STOP

    def close(self, trial_id: str, reason: FailureReason, message: str) -> None:
        """The Tune trial is over; if the controller still counts on it, it has failed."""
        job = self.jobs.pop(trial_id, None)
        self._heard.pop(trial_id, None)
        self._awaited.pop(trial_id, None)
        if job is not None and job.trial in self._controller.out:
            with self._careful():
                self._controller.failed(Failure(trial=job.trial, reason=reason, message=message))

    def tick(self) -> None:
        with self._careful():
            self._controller.tick()

    def _silence(self, trial_id: str) -> float:
        return time.monotonic() - self._heard.get(trial_id, time.monotonic())

    def hopeless(self) -> dict[str, tuple[FailureReason, str]]:
        """Tune trials whose workers are to be killed: those that hang and did not notice themselves, and slow ones."""
        found = {}
        for trial_id, job in self.jobs.items():
            silent, limit, rung = self._silence(trial_id), job.timeout_seconds, self._awaited.get(trial_id, 0)
            if silent > limit * 1.25 + GRACE_SECONDS:
                said = f"silent for more than {limit:g} s, and it did not notice itself"
                found[trial_id] = (FailureReason.TIMED_OUT, said)
            elif silent > self._paces.longest(rung) and self._controller.comes_again(job.trial, SLOW):
                said = f"silent for {silent:.0f} s on the way to rung {rung}, usual are {self._paces.usual(rung):.0f} s"
                found[trial_id] = (SLOW, said)
        return found


class _Asker(Searcher):
    """Asks the controller for the next job whenever Tune has room."""

    def __init__(self, desk: _Desk) -> None:
        super().__init__()
        self._desk = desk

    def suggest(self, trial_id: str) -> Any:
        """The next job, nothing for now, or the end. A running trial may be lost and come again: no end before that."""
        job = self._desk.hand_out(trial_id)
        if job is not None:
            return {"job": encode_job(job)}
        return Searcher.FINISHED if self._desk.finished else None

    def on_trial_complete(self, trial_id: str, result: dict[str, Any] | None = None, error: bool = False) -> None:
        """Failures with a reason were told before; what is left is a worker that died."""
        if error:
            self._desk.close(trial_id, FailureReason.WORKER_LOST, "its worker process died")
        else:
            self._desk.close(trial_id, FailureReason.ERROR, "it ended before its last rung")


class _Decider(FIFOScheduler):
    """Answers every report with the controller's decision, and ends trials that hang or have a slow worker."""

    _supports_buffered_results = False

    def __init__(self, desk: _Desk) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._desk = desk

    def on_trial_result(self, tune_controller: Any, trial: Any, result: dict[str, Any]) -> str:
        """Continue or stop."""
        action = self._desk.hear(trial.trial_id, result)
        return TrialScheduler.CONTINUE if action is Action.CONTINUE else TrialScheduler.STOP

    def choose_trial_to_run(self, tune_controller: Any) -> Any:
        """As FIFO; Tune asks this once a loop, which makes it the place to look at the clock."""
        if self._desk.broken is not None:
            tune_controller._tune_controller.request_stop_experiment()
        hopeless = self._desk.hopeless()
        for trial in tune_controller.get_trials() if hopeless else ():
            if trial.trial_id in hopeless:
                self._desk.close(trial.trial_id, *hopeless[trial.trial_id])
                # A hung thread does not hear a polite stop; a killed actor is a failed Tune trial like any other.
                ray.kill(trial.temporary_state.ray_actor)
        return super().choose_trial_to_run(tune_controller)

    def on_trial_error(self, tune_controller: Any, trial: Any) -> None:
        """A worker has died; that Ray ended it for the machine's memory stands in its error, and nowhere else."""
        if trial.error_file and LOW_ON_MEMORY in Path(trial.error_file).read_text(encoding="utf-8"):
            message = "the machine ran low on memory, and Ray ended the worker"
            self._desk.close(trial.trial_id, FailureReason.OUT_OF_MEMORY, message)
        super().on_trial_error(tune_controller, trial)


class _Clock(tune.Callback):
    """Marks the start of trials, and lets the controller breathe."""

    def __init__(self, desk: _Desk) -> None:
        self._desk = desk

    def on_trial_start(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        """A worker has taken the job."""
        self._desk.started(trial.trial_id)

    def on_step_end(self, iteration: int, trials: list[Any], **info: Any) -> None:
        """Once a loop of Tune's, at least every 0.1 s while nothing happens."""
        self._desk.tick()
