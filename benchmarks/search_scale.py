"""What a search of 10,000 trials costs: time of an ask, tell and record, of the reading commands, and memory.

`python benchmarks/search_scale.py [--trials N] [--output results/search_scale.json]` runs whole searches in the space
`layers`, from nothing, with made-up numbers of the size of real reports, early stopping as it is by default, and every
tenth trial failing: one with random draws and one with the sampler that `auto` picks. Other samplers go on where the
random search ends. Every search is a process of its own. Times are of one job (ask, start, tell and record, without the
work of the worker), in milliseconds of wall clock beside the process's own CPU time; `load_average` tells whether
others kept the machine busy.
"""

import argparse
import json
import os
import platform
import random
import resource
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hybridsearch.control.launch import plan
from hybridsearch.control.ledger import Ledger
from hybridsearch.control.loop import Controller, Plan
from hybridsearch.control.places import places
from hybridsearch.db.store import Store
from hybridsearch.errors import FailureReason
from hybridsearch.reporting.reporter import NullReporter
from hybridsearch.search.scheduler import Action
from hybridsearch.search_spaces import catalog
from hybridsearch.settings import SearchSettings
from hybridsearch.trial import Failure, Measurement, Report

STUDY = "large"
SIZES = (1_000, 2_000, 5_000, 10_000)
"""Trials at which memory is read and times are told."""
TIMED = 200
"""Latest jobs that the times are of."""
FURTHER = 200
"""Trials of the samplers that go on where the random search ends."""
WHOLE = ("random", "cluster")


def report(trial: int, rung: int, steps: int, rng: random.Random) -> Report:
    """A report of a usual size: five levels of recall for two seeds, eight shapes of throughput."""
    recall = rng.random() * steps / 1000
    levels = {f"recall/{length}x{length // 8}": min(1.0, recall * rng.random() * 2) for length in (64, 128, 256, 512)}
    metrics = {"recall": recall, "answer_loss": 5 * (1 - recall), **levels}
    shapes = [(phase, context, batch) for phase in ("prefill", "decode") for context in (512, 4096) for batch in (1, 8)]
    speeds = [rng.uniform(1e3, 1e5) for _ in shapes]
    measured = tuple(
        Measurement(phase=phase, context=context, batch=batch, tokens_per_second=speed, low=speed * 0.98,  # type: ignore[arg-type]
                    high=speed * 1.02, repeats=7)
        for (phase, context, batch), speed in zip(shapes, speeds, strict=True)
    )  # fmt: skip
    throughput = {m.key: m.tokens_per_second for m in measured}
    last = {"prefill_tokens_per_second": speeds[3], "decode_tokens_per_second": speeds[7], "cache_bytes": 1e5}
    replicates = {name: (value * 0.97, value * 1.03) for name, value in metrics.items()}
    return Report(
        trial=trial, rung=rung, steps=steps, metrics={**metrics, **throughput, **last}, replicates=replicates,
        measurements=measured, seconds=20.0, device="benchmark", peak_bytes=10**8,
    )  # fmt: skip


@dataclass
class Stopwatch:
    """Wall and CPU milliseconds between its entering and leaving, summed."""

    wall: float = 0.0
    cpu: float = 0.0

    def __enter__(self) -> "Stopwatch":
        self._begun = time.perf_counter(), time.process_time()
        return self

    def __exit__(self, *_: object) -> None:
        self.wall += (time.perf_counter() - self._begun[0]) * 1e3
        self.cpu += (time.process_time() - self._begun[1]) * 1e3


def jobs(controller: Controller, rng: random.Random) -> Iterator[tuple[int, Stopwatch]]:
    """Trial and cost of one job after the other; the numbers that workers say are made outside the clock."""
    while True:
        watch = Stopwatch()
        with watch:
            job = controller.next_job()
            assert job is not None
            controller.started(job.trial)
        for fidelity in job.rungs:
            told = report(job.trial, fidelity.rung, fidelity.steps, rng)
            with watch:
                if job.trial % 10 == 9 and fidelity.rung == 0:
                    controller.failed(Failure(trial=job.trial, reason=FailureReason.TIMED_OUT, message="300 s"))
                    break
                action = controller.report(told)
            if action is not Action.CONTINUE:
                break
        with watch:
            controller.tick()
        yield job.trial, watch


def told(watches: Sequence[Stopwatch]) -> dict[str, float]:
    """Median and 95th percentile."""
    found = {}
    for name in ("wall", "cpu"):
        values = sorted(getattr(watch, name) for watch in watches)
        found[f"{name}_milliseconds"] = round(statistics.median(values), 2)
        found[f"{name}_milliseconds_p95"] = round(values[int(0.95 * len(values))], 2)
    return found


def resident_mib() -> float:
    """Memory of this process now."""
    pages = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[1])
    return round(pages * os.sysconf("SC_PAGE_SIZE") / 2**20, 1)


def run(root: Path, sampler: str, trials: int) -> dict[str, Any]:
    """Go on with the study in a folder, or begin it, until it has so many trials."""
    search = described(root, sampler)
    with Store.open(search.places.store) as store:
        if not store.studies():
            space = json.dumps(dict(search.source))
            store.create_study(STUDY, search.settings.model_dump_json(), seed=0, space_json=space, versions={})
        found: dict[str, Any] = {"resident_mib_at_start": resident_mib()}
        with Stopwatch() as opening:
            ledger = Ledger(store, STUDY, search.settings, NullReporter(), lambda event: None)
        found |= {"open_cpu_seconds": round(opening.cpu / 1e3, 2), "resident_mib_opened": resident_mib()}
        controller = Controller(search, ledger)
        new: list[Stopwatch] = []
        again: list[Stopwatch] = []
        for number, watch in jobs(controller, random.Random(1)):
            first = number == ledger.next_number - 1
            (new if first else again).append(watch)
            del new[:-TIMED], again[:-TIMED]
            size = ledger.next_number
            if first and (size in SIZES or size == trials):
                found[str(size)] = {"resident_mib": resident_mib(), **told(new)}
                if again:
                    found[str(size)]["promoted"] = told(again)
                sys.stderr.write(f"{sampler}, {size} trials: {found[str(size)]}\n")
            if size >= trials:
                break
        found["peak_mib"] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024
    return found


def described(root: Path, sampler: str) -> Plan:
    """The search of this benchmark."""
    space = catalog.document("layers", Path())
    settings = SearchSettings.model_validate(
        {"study": STUDY, "space": "layers", "budget": {"trials": 10**6}, "sampler": sampler}
    )
    return plan(settings, space, places(root, tracking="none"))


def command(root: Path, *arguments: str) -> dict[str, float]:
    """Wall and CPU seconds of a command: the median of five."""
    walls, cpus = [], []
    for _ in range(5):
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        begun = time.perf_counter()
        line = [sys.executable, "-m", "hybridsearch", "--root", str(root), *arguments]
        subprocess.run(line, check=True, stdout=subprocess.DEVNULL)
        walls.append(time.perf_counter() - begun)
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        cpus.append(after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime)
    return {"wall_seconds": round(statistics.median(walls), 3), "cpu_seconds": round(statistics.median(cpus), 3)}


def in_a_process(root: Path, sampler: str, trials: int) -> Any:
    """`run` in a process of its own, so that memory is its own."""
    line = [sys.executable, __file__, "--root", str(root), "--samplers", sampler, "--trials", str(trials)]
    return json.loads(subprocess.run(line, check=True, stdout=subprocess.PIPE).stdout)


def measure(trials: int, samplers: Sequence[str]) -> dict[str, Any]:
    """All figures."""
    found: dict[str, Any] = {}
    with tempfile.TemporaryDirectory() as folder:
        filled = Path(folder, "random")
        found["random"] = in_a_process(filled, "random", trials)
        found["status"] = command(filled, "status", STUDY)
        found["pareto"] = command(filled, "pareto", STUDY)
        for sampler in samplers:
            root = Path(folder, sampler)
            if sampler not in WHOLE:
                shutil.copytree(filled, root)
                found[sampler] = in_a_process(root, sampler, trials + FURTHER)
            elif sampler != "random":
                found[sampler] = in_a_process(root, sampler, trials)
    return found


def main() -> None:
    """Measure; print or write JSON."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--trials", type=int, default=SIZES[-1])
    parser.add_argument("--samplers", default="random,cluster,evolution,prior,nsga2,tpe")
    parser.add_argument("--output", type=Path)
    parser.add_argument("--root", type=Path, help="run one search here, and print its figures alone")
    arguments = parser.parse_args()
    samplers = arguments.samplers.split(",")
    if arguments.root is not None:
        sys.stdout.write(json.dumps(run(arguments.root, samplers[0], arguments.trials)))
        return
    machine = {
        "cpu": platform.processor() or platform.machine(),
        "cores": os.cpu_count(),
        "python": platform.python_version(),
    }
    found = measure(arguments.trials, samplers)
    machine["load_average"] = round(os.getloadavg()[2], 1)
    text = json.dumps({"machine": machine, "trials": arguments.trials, **found}, indent=1)
    if arguments.output is None:
        sys.stdout.write(f"{text}\n")
    else:
        arguments.output.write_text(f"{text}\n", encoding="utf-8")


if __name__ == "__main__":
    main()
