"""Searches over a table in place of training: what plan, clock and executor such a search has."""

import time
from collections.abc import Callable
from functools import lru_cache
from pathlib import Path

from hybridsearch.control import simulated
from hybridsearch.control.candidates import require_feasible
from hybridsearch.control.loop import Controller
from hybridsearch.control.places import Places
from hybridsearch.control.proposer import Plan
from hybridsearch.errors import InvalidSetting
from hybridsearch.search_spaces import catalog
from hybridsearch.search_spaces.controls import controls
from hybridsearch.search_spaces.restriction import restricted
from hybridsearch.settings import SearchSettings, WorkerSettings
from hybridsearch.spec.canonical import content_hash, parse
from hybridsearch.tabular.table import Table
from hybridsearch.workers.replay import evaluator


@lru_cache(maxsize=4)
def table(path: str) -> Table:
    """The table of a file, read once.

    Raises:
        InvalidFile: it is none.
    """
    from hybridsearch.tabular import parquet  # pyarrow takes 0.1 s that other searches need not wait for

    return parquet.read(Path(path))


def plan(settings: SearchSettings, table: Table, places: Places) -> Plan:
    """The plan of a search over a table: its space with its complete candidates alone, and its evaluation.

    Raises:
        InvalidSetting: the table has nothing to search, or lacks an objective.
        Infeasible: no candidate meets the constraints.
    """
    _require_objectives(settings, table)
    settings = settings.model_copy(update={"evaluation": table.about.evaluation, "space": dict(table.about.space)})
    whole = catalog.load(table.about.space)
    space = restricted(whole, [parse(table.candidates[digest].canonical) for digest in table.playable])
    context = settings.evaluation.throughput.contexts[-1]
    require_feasible(space, settings.constraint_list, context, settings.seed)
    known = {name: a for name, a in controls(whole).items() if content_hash(a) in table.playable}
    return Plan(settings=settings, space=space, source=table.about.space, controls=known, places=places)


def executor(settings: SearchSettings) -> tuple[Callable[[Controller, WorkerSettings], None], simulated.Clock]:
    """What runs a search over the table of its settings, and the clock to start (or resume) it with.

    Raises:
        InvalidFile: the table cannot be read.
    """
    answering = evaluator(table(str(settings.replay)))
    clock = simulated.Clock(epoch=time.time())

    def execute(controller: Controller, workers: WorkerSettings) -> None:
        simulated.run(controller, answering, workers.count or simulated.WORKERS, clock)

    return execute, clock


def _require_objectives(settings: SearchSettings, table: Table) -> None:
    reports = [report for runs in table.playable.values() for run in runs for report in run.reports]
    if not reports:
        raise InvalidSetting("the table has no complete run, so there is nothing to replay")
    for objective in settings.objective_list:
        for name in (objective.name, objective.rung_name):
            if name not in reports[0].metrics:
                known = ", ".join(sorted(metric for metric in reports[0].metrics if "/" not in metric))
                raise InvalidSetting(
                    f"the table has no metric {name}, which objective {objective.name} needs; it has {known}"
                )
