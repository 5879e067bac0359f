"""Ray Tune as executor, for real: a local Ray, worker processes, one of which is killed, one hangs, one runs out."""

import json
import os
import signal
import socket
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import pytest
from ray import cloudpickle

from hybridsearch.control import ray_tune
from hybridsearch.control.ray_cluster import Cluster
from hybridsearch.errors import ClusterUnreachable, FailureReason, InvalidSetting, TrialFailure, TrialPaused
from hybridsearch.settings import WorkerSettings
from hybridsearch.trial import Job, Report, TrialState
from hybridsearch.workers.trainable import decode_job, decode_report, encode_job

Make = Callable[..., Any]
# Ray warns of sockets and processes that it leaves to its own clean-up.
pytestmark = [
    pytest.mark.filterwarnings("ignore::ResourceWarning"),
    pytest.mark.filterwarnings("ignore::FutureWarning"),
]


def report(job: Job, rung: int, steps: int) -> Report:
    recall = int(job.hash[:4], 16) / 65536 * steps / 100
    speed = float(int(job.hash[4:8], 16) + 1)
    metrics = {"recall": recall, "answer_loss": 1 - recall, "decode_tokens_per_second": speed}
    return Report(trial=job.trial, rung=rung, steps=steps, metrics=metrics, seconds=0.1, device="fake")


def eventful(job: Job) -> Iterator[Report]:
    """Trial 3 loses its worker once, 4 needs more than one share, 5 hangs, 6 is paused before its second rung."""
    mark = Path(job.folder) / "tried"
    if job.trial == 3 and not mark.exists():
        mark.parent.mkdir(parents=True, exist_ok=True)
        mark.touch()
        os.kill(os.getpid(), signal.SIGKILL)
    if job.trial == 4 and job.share == 1:
        raise TrialFailure(FailureReason.OUT_OF_MEMORY, "wanted 9 GB")
    if job.trial == 5:
        time.sleep(600)
    for fidelity in job.rungs:
        if job.trial == 6 and fidelity.rung == 1:
            raise TrialPaused("asked to")
        yield report(job, fidelity.rung, fidelity.steps)


def test_everything_that_can_happen_to_a_trial(
    make: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    cloudpickle.register_pickle_by_value(sys.modules[__name__])  # type: ignore[no-untyped-call]
    monkeypatch.setattr(ray_tune, "GRACE_SECONDS", 1.0)
    search = make(budget={"trials": 5}, workers={"timeout_minutes": 0.05, "count": 2}, stopping="off")
    controller = search.controller()
    log = tmp_path / "ray.log"
    ray_tune.run(controller, eventful, search.settings.workers, Cluster(address=None, log=str(log)))
    trials = {t.number: t for t in search.store.trials("s")}
    assert {n: (t.state, t.reason) for n, t in trials.items()} == {
        0: (TrialState.FINISHED, None),
        1: (TrialState.FINISHED, None),
        2: (TrialState.FINISHED, None),
        3: (TrialState.FINISHED, None),
        4: (TrialState.FINISHED, None),
        5: (TrialState.FAILED, FailureReason.TIMED_OUT),
        6: (TrialState.PAUSED, None),
        7: (TrialState.FINISHED, None),
    }
    assert [r.rung for r in trials[6].reports] == [0]
    retried = [e.message for e in search.store.events("s") if e.trial == 3 and e.kind == "waiting"]
    assert any("worker lost" in message and "attempt 2" in message for message in retried)
    larger = [e.message for e in search.store.events("s") if e.trial == 4 and e.kind == "waiting"]
    assert any("out of memory: wanted 9 GB; another attempt with 2 times the share" in message for message in larger)
    out, err = capfd.readouterr()
    assert (out, err) == ("", "")
    assert log.stat().st_size > 0


def faithful(job: Job) -> Iterator[Report]:
    """Says its rungs, and leaves a mark for each in its folder: nothing may be trained twice.

    Every trial is worse than those before it, so that the first ones beside the controls have to wait for company.
    """
    for fidelity in job.rungs:
        mark = Path(job.folder) / str(fidelity.rung)
        mark.parent.mkdir(parents=True, exist_ok=True)
        mark.touch(exist_ok=False)
        known = report(job, fidelity.rung, fidelity.steps)
        n = job.trial
        worse = {"recall": 0.9 - n / 100, "answer_loss": 1.0 + n, "decode_tokens_per_second": 1e3 - n}
        yield replace(known, metrics=worse)


def test_paused_trials_are_promoted_by_other_workers_and_keep_their_rungs(make: Make, tmp_path: Path) -> None:
    cloudpickle.register_pickle_by_value(sys.modules[__name__])  # type: ignore[no-untyped-call]
    search = make(budget={"trials": 9}, workers={"count": 2}, stopping="promote")
    ray_tune.run(
        search.controller(), faithful, search.settings.workers, Cluster(address=None, log=str(tmp_path / "ray.log"))
    )
    trials = search.store.trials("s")
    assert {t.state for t in trials} == {TrialState.FINISHED, TrialState.STOPPED}
    assert len(trials) == 12
    events = search.store.events("s")
    assert {e.trial for e in events if e.kind == "promote" and e.rung == 0} >= {3, 4}
    assert not [e for e in events if e.kind == "failed"]


def test_an_address_where_nobody_listens_is_told_within_seconds(make: Make, tmp_path: Path) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{free.getsockname()[1]}"
    with pytest.raises(ClusterUnreachable, match=f"no Ray cluster at `{address}`"):
        ray_tune.run(make().controller(), eventful, WorkerSettings(), Cluster(address=address, log=str(tmp_path / "l")))


@pytest.mark.parametrize("address", ["ray://head:10001", "head", "head:port"])
def test_addresses_that_cannot_work_are_refused_with_the_rule(make: Make, tmp_path: Path, address: str) -> None:
    with pytest.raises(InvalidSetting, match="address"):
        ray_tune.run(make().controller(), eventful, WorkerSettings(), Cluster(address=address, log=str(tmp_path / "l")))


def test_jobs_and_reports_survive_the_wire(make: Make) -> None:
    job = make().controller().next_job()
    assert decode_job(encode_job(job)) == job
    told = report(job, 0, 25)
    assert decode_report(json.dumps(asdict(told))) == told
