"""What a search of 10,000 trials costs: time of an ask, tell and record, of the reading commands, and memory.

`python benchmarks/search_scale.py [--trials N] [--output results/search_scale.json]` fills a SQLite store with
finished, stopped and failed trials of the space `layers` (random architectures, made-up numbers of the size of real
reports), then lets a controller go on from there, a fresh one for every sampler. Times are medians, in milliseconds of
wall clock beside the process's own CPU time; commands run as processes of their own.
"""

import argparse
import json
import os
import platform
import random
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path

from hybridsearch.control.candidates import describe
from hybridsearch.control.launch import plan
from hybridsearch.control.ledger import Ledger
from hybridsearch.control.loop import Controller, Plan
from hybridsearch.control.places import places
from hybridsearch.db.store import Store
from hybridsearch.errors import FailureReason
from hybridsearch.reporting.reporter import NullReporter
from hybridsearch.search.scheduler import Action
from hybridsearch.search_spaces import catalog, sampling
from hybridsearch.settings import SearchSettings
from hybridsearch.trial import Measurement, Report, TrialState

STUDY = "large"
ROUNDS = 30
"""Trials of each sampler that are timed."""
FOUND_AT_START = 3
"""Rounds left out: the first ones fill caches, as they do once in a search."""


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
    replicates = {name: (value, value) for name, value in metrics.items()}
    return Report(
        trial=trial, rung=rung, steps=steps, metrics={**metrics, **throughput, **last}, replicates=replicates,
        measurements=measured, seconds=20.0, device="benchmark", peak_bytes=10**8,
    )  # fmt: skip


def fill(store: Store, search: Plan, count: int) -> None:
    """Record `count` trials: of ten, five stop at the first rung, one at the second, three finish, and one fails."""
    rng = random.Random(0)
    seen: set[str] = set()
    ladder = search.settings.evaluation.rungs.ladder
    while len(seen) < count:
        candidate = describe(sampling.sample(search.space, rng), 4096)
        if candidate.hash in seen:
            continue
        seen.add(candidate.hash)
        number = store.add_trial(STUDY, candidate, sampler="random", seed=len(seen)).number
        store.set_state(STUDY, number, TrialState.RUNNING)
        if number % 10 == 9:
            store.set_state(STUDY, number, TrialState.FAILED, reason=FailureReason.OUT_OF_MEMORY, message="9 GB")
            continue
        reached = (1, 1, 1, 1, 1, 2, 3, 3, 3)[number % 10]
        for fidelity in ladder[:reached]:
            ended = TrialState.FINISHED if fidelity is ladder[-1] else TrialState.STOPPED
            state = ended if fidelity is ladder[reached - 1] else None
            store.record(STUDY, report(number, fidelity.rung, fidelity.steps, rng), state=state)


def rounds(controller: Controller) -> Iterator[tuple[float, float]]:
    """Wall and CPU milliseconds of ask, start, tell and record, trial by trial; numbers are made outside the clock."""
    rng = random.Random(1)
    for _ in range(ROUNDS):
        wall = cpu = 0.0

        def clocked(begun: tuple[float, float]) -> None:
            nonlocal wall, cpu
            wall += (time.perf_counter() - begun[0]) * 1e3
            cpu += (time.process_time() - begun[1]) * 1e3

        begun = time.perf_counter(), time.process_time()
        job = controller.next_job()
        assert job is not None
        controller.started(job.trial)
        clocked(begun)
        for fidelity in job.rungs:
            told = report(job.trial, fidelity.rung, fidelity.steps, rng)
            begun = time.perf_counter(), time.process_time()
            action = controller.report(told)
            clocked(begun)
            if action is not Action.CONTINUE:
                break
        yield wall, cpu


def command(root: Path, *arguments: str) -> dict[str, float]:
    """Median wall and CPU seconds of a command."""
    walls, cpus = [], []
    for _ in range(3):
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        begun = time.perf_counter()
        line = [sys.executable, "-m", "hybridsearch", "--root", str(root), *arguments]
        subprocess.run(line, check=True, stdout=subprocess.DEVNULL)
        walls.append(time.perf_counter() - begun)
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        cpus.append(after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime)
    return {"wall_seconds": round(statistics.median(walls), 3), "cpu_seconds": round(statistics.median(cpus), 3)}


def measure(root: Path, count: int, samplers: list[str]) -> Mapping[str, object]:
    """All figures at one size."""
    space = catalog.document("layers", Path())
    settings = SearchSettings(study=STUDY, space="layers", budget={"trials": 10**6})
    search = plan(settings, space, places(root, tracking="none"))
    found: dict[str, object] = {"trials": count}
    with Store.open(search.places.store) as store:
        store.create_study(STUDY, settings.model_dump_json(), seed=0, space_json=json.dumps(space.data), versions={})
        fill(store, search, count)
        found["status"] = command(root, "status", STUDY)
        found["pareto"] = command(root, "pareto", STUDY)
        begun = time.perf_counter()
        store.trials(STUDY)
        found["load_all_seconds"] = round(time.perf_counter() - begun, 3)
        for sampler in samplers:
            changed = settings.model_copy(update={"sampler": sampler})
            begun = time.perf_counter()
            ledger = Ledger(store, STUDY, changed, NullReporter(), lambda event: None)
            opened = time.perf_counter() - begun
            controller = Controller(replace(search, settings=changed, controls={}), ledger)
            times = list(rounds(controller))[FOUND_AT_START:]
            wall, cpu = (statistics.median(column) for column in zip(*times, strict=True))
            found[sampler] = {
                "milliseconds": round(wall, 2),
                "cpu_milliseconds": round(cpu, 2),
                "open": round(opened, 2),
            }
            sys.stderr.write(f"{count} trials, {sampler}: {found[sampler]}\n")
    found["peak_mib"] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024
    return found


def main() -> None:
    """Measure 1,000 trials and then as many as asked for; print or write JSON."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--trials", type=int, default=10_000)
    parser.add_argument("--samplers", default="random,evolution,prior,cluster,nsga2,tpe")
    parser.add_argument("--output", type=Path)
    arguments = parser.parse_args()
    sizes = [1_000, arguments.trials] if arguments.trials > 1_000 else [arguments.trials]
    results = []
    for count in sizes:
        with tempfile.TemporaryDirectory() as folder:
            results.append(measure(Path(folder), count, arguments.samplers.split(",")))
    machine = {
        "cpu": platform.processor() or platform.machine(),
        "cores": os.cpu_count(),
        "python": platform.python_version(),
    }
    text = json.dumps({"machine": machine, "results": results}, indent=1)
    if arguments.output is None:
        sys.stdout.write(f"{text}\n")
    else:
        arguments.output.write_text(f"{text}\n", encoding="utf-8")


if __name__ == "__main__":
    main()
