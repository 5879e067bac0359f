"""Machines that join and leave a running search: a Ray cluster of several nodes on this machine, one of them killed."""

import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
import ray
from ray import cloudpickle
from ray.cluster_utils import Cluster as Nodes

from hybridsearch.control import ray_tune
from hybridsearch.control.ray_cluster import Cluster
from hybridsearch.trial import Job, Report, TrialState

Make = Callable[..., Any]
# Ray warns of sockets and processes that it leaves to its own clean-up.
pytestmark = [
    pytest.mark.filterwarnings("ignore::ResourceWarning"),
    pytest.mark.filterwarnings("ignore::FutureWarning"),
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
]
SECONDS = 120.0
CONTROLS = 3


def noting(job: Job) -> Iterator[Report]:
    """Notes its node before every rung; trials that are no controls do not come to rung 1 before they are let go."""
    node = ray.get_runtime_context().get_node_id()
    folder = Path(job.folder)
    folder.mkdir(parents=True, exist_ok=True)
    for fidelity in job.rungs:
        with (folder / "nodes").open("a") as file:
            file.write(f"{node} {fidelity.rung}\n")
        while job.trial >= CONTROLS and fidelity.rung == 1 and not (folder.parent / "let go").exists():
            time.sleep(0.05)
        recall = int(job.hash[:4], 16) / 65536 * fidelity.steps / 100
        metrics = {"recall": recall, "answer_loss": 1 - recall, "decode_tokens_per_second": 1.0 + job.trial}
        yield Report(trial=job.trial, rung=fidelity.rung, steps=fidelity.steps, metrics=metrics, seconds=0.1)


def wait_for(happened: Callable[[], object], search: "Future[None]") -> None:
    limit = time.monotonic() + SECONDS
    while not happened():
        assert not search.done(), search.exception()
        assert time.monotonic() < limit
        time.sleep(0.05)


def notes(root: Path) -> list[tuple[str, int, int]]:
    """Node, trial and rung of all work that was begun."""
    found = []
    for file in sorted(root.glob("s/trials/t*/nodes")):
        for line in file.read_text().splitlines():
            node, rung = line.split()
            found.append((node, int(file.parent.name[1:]), int(rung)))
    return found


@pytest.fixture
def nodes() -> Iterator[Nodes]:
    """A cluster of one node with one CPU."""
    cluster = Nodes(initialize_head=True, head_node_args={"num_cpus": 1, "include_dashboard": False})
    yield cluster
    cluster.shutdown()  # type: ignore[no-untyped-call]


def test_a_node_joins_works_is_lost_and_another_takes_its_place(make: Make, tmp_path: Path, nodes: Nodes) -> None:
    cloudpickle.register_pickle_by_value(sys.modules[__name__])  # type: ignore[no-untyped-call]
    search = make(budget={"trials": 6}, stopping="off")
    root, cluster = search.places.root, Cluster(address=nodes.address, log=str(tmp_path / "ray.log"))
    # Nodes can be started from the main thread alone.
    with ThreadPoolExecutor(1) as thread:
        running = thread.submit(ray_tune.run, search.controller(), noting, search.settings.workers, cluster)
        wait_for(lambda: notes(root), running)
        lost = nodes.add_node(num_cpus=1)
        wait_for(lambda: [rung for node, _, rung in notes(root) if (node, rung) == (lost.node_id, 1)], running)
        nodes.remove_node(lost, allow_graceful=False)
        joined = nodes.add_node(num_cpus=1)
        wait_for(lambda: [node for node, _, _ in notes(root) if node == joined.node_id], running)
        (root / "s" / "trials" / "let go").touch()
        running.result(SECONDS)
    trials = search.store.trials("s")
    assert len(trials) == 6 + CONTROLS
    assert {t.state for t in trials} == {TrialState.FINISHED}
    assert all([r.rung for r in t.reports] == [0, 1, 2] for t in trials)

    work = notes(root)
    (again,) = [e for e in search.store.events("s") if e.kind == "waiting" and "worker lost" in e.message]
    assert "attempt 2" in again.message
    assert (lost.node_id, again.trial, 1) in work
    # Of what was reported nothing is trained again.
    assert [key for key, count in Counter((trial, rung) for _, trial, rung in work).items() if count > 1] == [
        (again.trial, 1)
    ]
