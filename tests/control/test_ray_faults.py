"""Workers that fail in other ways than by being killed, under real Ray: spoilt processes, slow ones, full memory."""

import errno
import os
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from ray import cloudpickle

from hybridsearch.control import paces, ray_tune
from hybridsearch.control.ray_cluster import Cluster
from hybridsearch.errors import FailureReason
from hybridsearch.trial import Job, Report, TrialState
from hybridsearch.workers.guard import guarded

Make = Callable[..., Any]
# Ray warns of sockets and processes that it leaves to its own clean-up.
pytestmark = [
    pytest.mark.filterwarnings("ignore::ResourceWarning"),
    pytest.mark.filterwarnings("ignore::FutureWarning"),
]
LONG = 600.0
"""Seconds for which nobody may wait: the tests' own time limit is half of it."""
SPOILT, SLOW, FULL, BROKEN = 4, 8, 5, 6
"""Trials with a CUDA error, with a slow worker, with a full disk, and with a kernel that does not compile."""


def report(job: Job, rung: int, steps: int) -> Report:
    recall = int(job.hash[:4], 16) / 65536 * steps / 100
    metrics = {"recall": recall, "answer_loss": 1 - recall, "decode_tokens_per_second": 1.0 + int(job.hash[4:8], 16)}
    return Report(trial=job.trial, rung=rung, steps=steps, metrics=metrics, seconds=0.1, device="fake")


def failing(job: Job) -> Iterator[Report]:
    folder = Path(job.folder)
    folder.mkdir(parents=True, exist_ok=True)
    again = (folder / "process").exists()
    with (folder / "process").open("a") as file:
        file.write(f"{os.getpid()}\n")
    with guarded():
        if job.trial == SPOILT:
            raise RuntimeError("CUDA error: an illegal memory access was encountered\nCompile with TORCH_USE_CUDA_DSA")
        if job.trial == BROKEN:
            from triton.compiler.errors import CompilationError

            raise CompilationError("x = tl.dot(a)", None, "dot() takes two blocks")
        for fidelity in job.rungs:
            if job.trial == FULL and fidelity.rung == 1:
                raise OSError(errno.ENOSPC, "No space left on device")
            if job.trial == SLOW and fidelity.rung == 1 and not again:
                time.sleep(LONG)
            yield report(job, fidelity.rung, fidelity.steps)


def test_a_spoilt_process_is_not_used_again_and_a_slow_one_is_left(
    make: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cloudpickle.register_pickle_by_value(sys.modules[__name__])  # type: ignore[no-untyped-call]
    monkeypatch.setattr(paces, "SHORTEST_SECONDS", 6.0)
    search = make(budget={"trials": 7}, workers={"count": 1}, stopping="off")
    controller = search.controller()
    ray_tune.run(controller, failing, search.settings.workers, Cluster(address=None, log=str(tmp_path / "ray.log")))
    ends = {t.number: (t.state, t.reason) for t in search.store.trials("s")}
    failures = {
        SPOILT: FailureReason.KERNEL,
        BROKEN: FailureReason.KERNEL,
        FULL: FailureReason.DISK_FULL,
    }
    assert {number: reason for number, (state, reason) in ends.items() if state is TrialState.FAILED} == failures
    assert {number for number, (state, _) in ends.items() if state is TrialState.FINISHED} == set(range(10)) - {4, 5, 6}
    assert not {point.trial for point in controller.snapshot().front} & set(failures)
    said = [e.message for e in search.store.events("s") if e.trial == SLOW and e.kind == "waiting"]
    assert any(message.startswith("slow worker: silent for") and "attempt 2" in message for message in said)

    processes = {n: [int(p) for p in search.places.trial("s", n).joinpath("process").read_text().split()] for n in ends}
    assert len({*processes[0], *processes[1], *processes[2], *processes[3]}) == 1, "a sound process is used again"
    for spoilt in (SPOILT, BROKEN):
        (process,) = processes[spoilt]
        assert not [n for n in range(spoilt + 1, 10) if process in processes[n]]
    first, second = processes[SLOW]
    assert first != second


def lasting(job: Job) -> Iterator[Report]:
    time.sleep(LONG)
    yield from failing(job)


def test_a_worker_that_ray_ends_for_the_memory_of_its_machine_ran_out_of_memory(
    make: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cloudpickle.register_pickle_by_value(sys.modules[__name__])  # type: ignore[no-untyped-call]
    monkeypatch.setenv("RAY_memory_usage_threshold", "0.001")  # far less than any machine has in use
    monkeypatch.setenv("RAY_memory_monitor_refresh_ms", "200")
    search = make(budget={"trials": 1}, workers={"count": 1})
    search.plan = replace(search.plan, controls={})
    log = str(tmp_path / "ray.log")
    ray_tune.run(search.controller(), lasting, search.settings.workers, Cluster(address=None, log=log))
    (trial,) = search.store.trials("s")
    assert (trial.state, trial.reason) == (TrialState.FAILED, FailureReason.OUT_OF_MEMORY)
    assert trial.message == "the machine ran low on memory, and Ray ended the worker"
    again = [event.message for event in search.store.events("s") if "2 times the share" in event.message]
    assert len(again) == 1
