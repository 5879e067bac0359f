"""Searches over a table, many seeds a method: simulated GPU-seconds to 95 % of the table's best hypervolume.

`python benchmarks/search_on_table.py TABLE.parquet --output results/NAME` writes NAME.json and NAME.png. Every method
has the same simulated workers, starts with the table's controls, and never trains a candidate twice. A candidate counts
once it has reached the last rung, with the means over its seeds, so that luck with one seed does not. The searches run
through the program's own controller, with a store in memory, until they stand at 99 % or the budget is spent.
`--syne-tune PYTHON` adds Syne Tune's MOASHA, run by an interpreter that has it (`moasha_on_table.py`).
"""

import argparse
import json
import math
import multiprocessing
import random
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, cast

from memory_store import MemoryStore
from table_figure import SHARE, curve, draw

from hybridsearch.control import launch, loop, replay, simulated, tabulate
from hybridsearch.control.ledger import Ledger
from hybridsearch.control.loop import Controller
from hybridsearch.control.places import Places
from hybridsearch.db.store import Event, Store
from hybridsearch.objectives import reference_point, score
from hybridsearch.pareto.front import Front
from hybridsearch.reporting.reporter import NullReporter
from hybridsearch.search_spaces import catalog
from hybridsearch.search_spaces.controls import controls
from hybridsearch.settings import BudgetSettings, SearchSettings, WorkerSettings
from hybridsearch.spec.canonical import content_hash
from hybridsearch.tabular.parquet import read
from hybridsearch.tabular.table import Table
from hybridsearch.trial import TrialState
from hybridsearch.workers.replay import evaluator

ENOUGH = 0.99
"""Share of the best hypervolume at which a search ends: what follows decides nothing."""
METHODS: dict[str, dict[str, str]] = {
    "random, all to the end": {"sampler": "random", "stopping": "off"},
    "NSGA-II of Optuna, all to the end": {"sampler": "nsga2", "stopping": "off"},
    "TPE of Optuna, all to the end": {"sampler": "tpe", "stopping": "off"},
    "evolution, all to the end": {"sampler": "evolution", "stopping": "off"},
    "random, promotion": {"sampler": "random", "stopping": "promote"},
    "evolution, promotion": {"sampler": "evolution", "stopping": "promote"},
    "prior, promotion": {"sampler": "prior", "stopping": "promote"},
    "cluster, promotion": {"sampler": "cluster", "stopping": "promote"},
}
"""Settings by what a figure calls them."""
MOASHA = ("MOASHA of Syne Tune 0.16", "MOASHA of Syne Tune 0.16, order made ranks")
"""As it is, and repaired: it takes the order of its non-dominated sort (which item comes k-th) for the items' ranks."""
BASELINE = "random, all to the end"
BOOTSTRAPS = 2000
Finish = tuple[float, str]
"""When a trial reached the last rung, in simulated seconds, and its candidate."""


class _EnoughError(Exception):
    """Ends a search."""


class _Share:
    """The share of the table's best hypervolume that finished candidates have."""

    def __init__(self, table: Table) -> None:
        self._table, self._finals = table, table.finals()
        self._best = table.front().hypervolume
        self._front: Front[str] = Front(reference_point(table.objectives))

    def with_finished(self, digest: str) -> float:
        """The share once this candidate has finished too; one with a seed that failed adds nothing."""
        if digest in self._finals:
            self._front.add(score(self._table.objectives, (), self._finals[digest], final=True).minimised, digest)
        return self._front.hypervolume / self._best


def search(table: Table, method: dict[str, str], seed: int, workers: int, budget_seconds: float) -> list[Finish]:
    """One search; when which candidate came to the last rung."""
    settings = SearchSettings(
        study="s",
        space="tiny",
        seed=seed,
        budget=BudgetSettings(trials=10 * len(table.candidates), minutes=budget_seconds / 60),
        objectives=table.about.objectives,
        workers=WorkerSettings(count=workers),
        **cast(Any, method),
    )
    plan = replay.plan(settings, table, Places(root=Path(tempfile.gettempdir()), store="", tracking=None))
    clock = simulated.Clock(epoch=0.0)
    store = MemoryStore(clock)
    found: list[Finish] = []

    share = _Share(table)

    def listen(event: Event) -> None:
        if event.kind == TrialState.FINISHED.value and event.trial is not None:
            found.append((clock.now, store.kept[event.trial].candidate.hash))
            if share.with_finished(found[-1][1]) >= ENOUGH:
                raise _EnoughError

    ledger = Ledger(cast(Store, store), "s", plan.settings, NullReporter(), listen)
    loop.SHOW_SECONDS = math.inf  # nobody looks
    with suppress(_EnoughError):
        simulated.run(Controller(plan, ledger, clock=clock), evaluator(table), workers, clock)
    return found


def moasha(
    table: Table, python: str, seeds: Sequence[int], workers: int, budget_seconds: float
) -> dict[str, list[list[Finish]]]:
    """The same of Syne Tune's MOASHA, both ways, by seed."""
    with tempfile.TemporaryDirectory() as folder:
        given, made = Path(folder) / "table.json", Path(folder) / "found.json"
        given.write_text(json.dumps(exported(table, seeds, workers, budget_seconds)))
        script = Path(__file__).parent / "moasha_on_table.py"
        subprocess.run([python, str(script), str(given), str(made)], check=True)
        found: list[list[list[Finish]]] = json.loads(made.read_text())
    return {
        name: [[(when, digest) for when, digest in finishes] for finishes in runs]
        for name, runs in zip(MOASHA, found, strict=True)
    }


def exported(table: Table, seeds: Sequence[int], workers: int, budget_seconds: float) -> dict[str, Any]:
    """What MOASHA needs of a table: per candidate and run, for each rung the minimised rung metrics and the seconds."""
    rungs = {}
    for digest, runs in table.playable.items():
        rungs[digest] = [
            [
                [*score(table.objectives, (), report.metrics, final=False).minimised, report.seconds]
                for report in run.reports
            ]
            for run in runs
        ]
    known = [content_hash(a) for a in controls(catalog.load(table.about.space)).values()]
    return {
        "rungs": rungs,
        "steps": table.about.evaluation.rungs.steps,
        "reduction": table.about.evaluation.rungs.reduction,
        "controls": [digest for digest in known if digest in rungs],
        "seeds": list(seeds),
        "workers": workers,
        "budget_seconds": budget_seconds,
    }


def growth(table: Table, finishes: Sequence[Finish]) -> list[tuple[float, float]]:
    """Simulated seconds and the share of the table's best hypervolume that stands by then, at every finished trial."""
    share = _Share(table)
    return [(when, share.with_finished(digest)) for when, digest in sorted(finishes)]


def reached(steps: Sequence[tuple[float, float]]) -> float | None:
    """When the share first stood at `SHARE`."""
    return next((when for when, share in steps if share >= SHARE), None)


def summary(times: Sequence[float | None], workers: int, budget_seconds: float) -> dict[str, Any]:
    """Median, quartiles and a bootstrapped 95 % interval of the median, in GPU-seconds; a miss counts as the budget."""
    spent = [workers * (budget_seconds if when is None else when) for when in times]
    low, middle, high = statistics.quantiles(spent, n=4, method="inclusive")
    interval = _interval(lambda draw: statistics.median(draw(spent)))
    return {
        "gpu_seconds": [round(value, 1) for value in spent],
        "median": middle,
        "quartiles": [low, high],
        "median_95": interval,
        "missed": sum(when is None for when in times),
    }


def speedup(baseline: Sequence[float], other: Sequence[float]) -> dict[str, Any]:
    """How many times less the other needs at the median, with a bootstrapped 95 % interval."""
    ratio = statistics.median(baseline) / statistics.median(other)
    interval = _interval(lambda draw: statistics.median(draw(baseline)) / statistics.median(draw(other)))
    return {"ratio": ratio, "ratio_95": interval}


Draw = Callable[[Sequence[float]], list[float]]


def _interval(statistic: Callable[[Draw], float]) -> list[float]:
    rng = random.Random(0)
    values = sorted(statistic(lambda sample: rng.choices(sample, k=len(sample))) for _ in range(BOOTSTRAPS))
    return [values[int(0.025 * BOOTSTRAPS)], values[int(0.975 * BOOTSTRAPS)]]


def all_searches(
    table: Table, methods: Sequence[str], seeds: int, workers: int, budget_seconds: float, processes: int
) -> dict[str, list[list[Finish]]]:
    """Every method with every seed, several at once."""
    jobs = [(table, METHODS[name], seed, workers, budget_seconds) for seed in range(seeds) for name in methods]
    with multiprocessing.get_context("fork").Pool(processes) as pool:
        found = pool.starmap(search, jobs, chunksize=1)
    return {name: found[place :: len(methods)] for place, name in enumerate(methods)}


def main() -> None:
    """Run all methods and write the results."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("table", type=Path)
    parser.add_argument("--output", type=Path, required=True, help="name without ending")
    parser.add_argument("--seeds", type=int, default=20)
    parser.add_argument("--workers", type=int, default=8)
    parser.add_argument("--share", type=float, default=0.7, help="budget, as a share of training all candidates once")
    parser.add_argument("--syne-tune", metavar="PYTHON", help="an interpreter that has syne-tune")
    parser.add_argument("--processes", type=int, default=1, help="searches at once")
    parser.add_argument("--no-figure", action="store_true")
    parser.add_argument("--methods", nargs="*", help="names to run instead of all", default=list(METHODS))
    given = parser.parse_args()
    table = tabulate.build([str(given.table)], None) if given.table.suffix == tabulate.RECORDS else read(given.table)
    whole = sum(statistics.mean(run.seconds for run in runs) for runs in table.playable.values())
    budget_seconds = given.share * whole / given.workers
    found = all_searches(table, given.methods, given.seeds, given.workers, budget_seconds, given.processes)
    if given.syne_tune:
        found |= moasha(table, given.syne_tune, range(given.seeds), given.workers, budget_seconds)
    curves = {name: [growth(table, finishes) for finishes in runs] for name, runs in found.items()}
    results = {
        name: summary([reached(steps) for steps in runs], given.workers, budget_seconds)
        for name, runs in curves.items()
    }
    for name, result in results.items():
        if BASELINE in results and name != BASELINE:
            result["against_random"] = speedup(results[BASELINE]["gpu_seconds"], result["gpu_seconds"])
        result["curve"] = curve(curves[name], given.workers, budget_seconds)
        result["best_share_median"] = statistics.median(steps[-1][1] for steps in curves[name])
        result["trials_at_last_rung_median"] = statistics.median(len(finishes) for finishes in found[name])
    facts = {
        "table": given.table.name,
        "commit": tabulate.commit(),
        "versions": launch.versions(),
        "candidates": len(table.playable),
        "objectives": table.about.objectives,
        "best_hypervolume": table.front().hypervolume,
        "share": SHARE,
        "workers": given.workers,
        "seeds": given.seeds,
        "budget_gpu_seconds": budget_seconds * given.workers,
        "gpu_seconds_of_all_candidates": whole,
        "settings": {name: METHODS.get(name, {}) for name in results},
        "results": results,
    }
    given.output.with_suffix(".json").write_text(json.dumps(facts, indent=1) + "\n")
    if not given.no_figure:
        draw(results, given.output.with_suffix(".png"))
    for name, result in results.items():
        ratio = result.get("against_random", {}).get("ratio", 1.0)
        sys.stdout.write(
            f"{name:38} {result['median']:9.0f} GPU-s ({result['quartiles'][0]:.0f} to {result['quartiles'][1]:.0f}), "
            f"x{ratio:.2f}, {result['missed']} of {given.seeds} missed, best {result['best_share_median']:.3f}\n"
        )


if __name__ == "__main__":
    main()
