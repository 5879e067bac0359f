"""A search under Ray whose evaluator fails in several ways: `faulty_search.py ROOT TRIALS MLFLOW`, again to resume."""

import sys
import time
from collections.abc import Iterator
from functools import partial
from pathlib import Path

from ray import cloudpickle

from hybridsearch.control import launch, ray_tune
from hybridsearch.control.loop import Controller
from hybridsearch.control.places import places
from hybridsearch.control.ray_cluster import Cluster
from hybridsearch.control.snapshot import Silent
from hybridsearch.db.store import Store
from hybridsearch.settings import SearchSettings, WorkerSettings
from hybridsearch.trial import Job, Report
from hybridsearch.workers.guard import guarded
from hybridsearch.yaml_files import Document

SPACE = (Path(__file__).parents[1] / "small_space.yaml").read_text(encoding="utf-8")


def evaluate(job: Job) -> Iterator[Report]:
    """Trial 4 needs a larger share, 5 more than there is; 6 diverges at its second rung, 7 meets a broken kernel."""
    with guarded():
        if job.trial == 5 or (job.trial == 4 and job.share == 1):
            raise MemoryError
        for fidelity in job.rungs:
            time.sleep(0.15)
            if job.trial == 7:
                raise RuntimeError("CUDA error: device-side assert triggered")
            recall = int(job.hash[:4], 16) / 65536 * fidelity.steps / 100
            loss = float("nan") if job.trial == 6 and fidelity.rung == 1 else 1 - recall
            speed = 1.0 + int(job.hash[4:8], 16)
            metrics = {"recall": recall, "answer_loss": loss, "decode_tokens_per_second": speed}
            yield Report(trial=job.trial, rung=fidelity.rung, steps=fidelity.steps, metrics=metrics, seconds=0.15)


def main(root: Path, trials: int, mlflow: str) -> None:
    """Start the study `drill`, or resume it; the numbers of its front are said in the end."""
    cloudpickle.register_pickle_by_value(sys.modules["__main__"])  # type: ignore[no-untyped-call]
    where = places(root, tracking=mlflow)
    with Store.open(where.store) as store:
        known = [study.name for study in store.studies()]
    run = partial(ray_tune.run, cluster=Cluster(address=None, log=str(root / "ray.log")))

    def execute(controller: Controller, workers: WorkerSettings) -> None:
        run(controller, evaluate, workers)

    if known:
        outcome = launch.resume("drill", where, execute, Silent(), lambda settings: settings)
    else:
        settings = SearchSettings.model_validate({
            "study": "drill", "space": "given", "budget": {"trials": trials}, "stopping": "off", "sampler": "random",
            "evaluation": {"rungs": {"steps": [25, 50, 100]}, "training": {"warmup": 0.1}},
            "workers": {"count": 2, "retries": 20},
        })  # fmt: skip
        outcome = launch.start(launch.plan(settings, Document(SPACE, "space"), where), execute, Silent(), machine="")
    sys.stdout.write(f"front {' '.join(str(point.trial) for point in outcome.standing.front)}\n")


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]), sys.argv[3])
