"""Syne Tune's MOASHA over a table, for `search_on_table.py`; needs syne-tune and nothing of this project.

`python moasha_on_table.py TABLE.json FOUND.json`. Its scheduler decides, and its reduction factor and grace period are
those of the table's rungs; sampling is MOASHA's own, at random. As in the other methods the controls come first, and a
candidate that was drawn before is drawn again, at no cost.
"""

import heapq
import json
import random
import sys
from datetime import datetime
from pathlib import Path
from typing import Any

import numpy as np
from syne_tune.backend.trial_status import Trial
from syne_tune.config_space import choice
from syne_tune.optimizer.scheduler import SchedulerDecision
from syne_tune.optimizer.schedulers.multiobjective.moasha import MOASHA
from syne_tune.optimizer.schedulers.multiobjective.multiobjective_priority import NonDominatedPriority


class Ranks(NonDominatedPriority):
    """The rank of every item. What it is made from gives the items in order, and 0.16 takes that for their ranks."""

    def priority_unsafe(self, objectives: np.ndarray) -> np.ndarray:
        """Lower is better."""
        order = super().priority_unsafe(objectives)
        ranks = np.empty(len(order), dtype=int)
        ranks[order] = np.arange(len(order))
        return ranks


def search(table: dict[str, Any], seed: int, priority: NonDominatedPriority) -> list[tuple[float, str]]:
    """When which candidate came to the last rung, in simulated seconds."""
    np.random.seed(seed)
    random.seed(seed)
    rng = random.Random(seed)
    names, steps = sorted(table["rungs"]), table["steps"]
    scheduler = MOASHA(
        config_space={"candidate": choice(names)},
        metrics=["first", "second"],
        time_attr="steps",
        max_t=steps[-1],
        grace_period=steps[0],
        reduction_factor=table["reduction"],
        multiobjective_priority=priority,
        random_seed=seed,
    )
    queue, known = list(table["controls"]), set()
    events: list[tuple[float, int, int, str, list[list[float]]]] = []
    trials: dict[int, Trial] = {}
    found: list[tuple[float, str]] = []
    now = 0.0

    def start() -> None:
        number = len(trials)
        name = queue.pop(0) if queue else scheduler.suggest().config["candidate"]
        while name in known:
            name = scheduler.suggest().config["candidate"]
        known.add(name)
        trials[number] = Trial(trial_id=number, config={"candidate": name}, creation_time=datetime(2000, 1, 1))
        scheduler.on_trial_add(trials[number])
        run = rng.choice(table["rungs"][name])
        if run:
            heapq.heappush(events, (now + run[0][2], number, 0, name, run))

    while True:
        while len(events) < table["workers"] and now < table["budget_seconds"] and len(known) < len(names):
            start()
        if not events:
            return found
        now, number, rung, name, run = heapq.heappop(events)
        result = {"steps": steps[rung], "first": run[rung][0], "second": run[rung][1]}
        if rung == len(steps) - 1:
            scheduler.on_trial_complete(trials[number], result)
            found.append((now, name))
        elif scheduler.on_trial_result(trials[number], result) == SchedulerDecision.CONTINUE and rung + 1 < len(run):
            heapq.heappush(events, (now + run[rung + 1][2], number, rung + 1, name, run))


def main() -> None:
    """All seeds, with the priorities as they are and as ranks."""
    table = json.loads(Path(sys.argv[1]).read_text())
    found = [[search(table, seed, kind()) for seed in table["seeds"]] for kind in (NonDominatedPriority, Ranks)]
    Path(sys.argv[2]).write_text(json.dumps(found))


if __name__ == "__main__":
    main()
