"""Candidates and decisions of a search, against those made from its records alone: everything ranked and listed anew.

The controller keeps fronts and lists that grow with the search, and of an ended trial its scores alone. Whatever it
keeps, it must propose and decide as one that reads all records before every answer.
"""

from collections import Counter
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from hybridsearch.control import replay, simulated
from hybridsearch.control.active import Active
from hybridsearch.control.launch import start
from hybridsearch.control.observing import observation
from hybridsearch.control.places import places
from hybridsearch.control.snapshot import Silent
from hybridsearch.db.records import EventRecord, TrialRecord
from hybridsearch.db.store import Store
from hybridsearch.pareto.crowding import distances
from hybridsearch.pareto.dominance import ranks
from hybridsearch.search.history import History, Observation
from hybridsearch.search.results import Entry
from hybridsearch.search.rungs import Ladder
from hybridsearch.search.samplers import SAMPLERS, Request
from hybridsearch.settings import SearchSettings
from hybridsearch.spec.canonical import content_hash
from hybridsearch.trial import TrialState
from hybridsearch.workers.replay import evaluator

TABLE = Path(__file__).parents[2] / "benchmarks" / "tables" / "recall.parquet"
STATES = {
    "waiting": TrialState.WAITING,
    "promote": TrialState.WAITING,
    "running": TrialState.RUNNING,
    "continue": TrialState.RUNNING,
    "paused": TrialState.PAUSED,
    "stopped": TrialState.STOPPED,
    "finished": TrialState.FINISHED,
}
DECIDED = ("continue", "paused", "stopped", "finished")


class Records:
    """What can be known of a search after some of its events."""

    def __init__(self, settings: SearchSettings, trials: list[TrialRecord]) -> None:
        self._settings, self._trials = settings, trials
        self.ladder = Ladder.of_search(settings)
        self._reported: Counter[int] = Counter()
        self.known: dict[int, Observation] = {}

    def follow(self, event: EventRecord) -> None:
        assert event.trial is not None
        self._reported[event.trial] += event.kind in DECIDED and event.rung == self._reported[event.trial]
        trial = Active.of(self._trials[event.trial])
        known = replace(trial, state=STATES[event.kind], reports=trial.reports[: self._reported[event.trial]])
        self.known[event.trial] = observation(known, self._settings, self.ladder)

    def place(self, trial: int, rung: int) -> str:
        """Where a trial stands at a rung, in the words of a decision."""
        entries = [
            Entry(trial=o.trial, score=o.rung_scores[rung]) for o in self.known.values() if rung in o.rung_scores
        ]
        entries.sort(key=lambda entry: entry.trial)
        values = np.array([entry.score.minimised for entry in entries])
        errors = np.array([entry.score.errors_of_values for entry in entries]) * self.ladder.margin
        found = ranks(values, [entry.score.violation for entry in entries], margins=errors if errors.any() else None)
        own = [entry.trial for entry in entries].index(trial)
        beside = np.flatnonzero(found == found[own])
        inside = beside[np.argsort(-distances(values[beside]), kind="stable")].tolist()
        position = np.count_nonzero(found < found[own]) + inside.index(own) + 1
        count = int(found.max()) + 1
        fronts = f"{count} front{'s' * (count > 1)}"
        return f"rung {rung}: rank {found[own] + 1} of {fronts}, position {position} of {len(entries)}"


@pytest.mark.parametrize(
    ("sampler", "stopping"), [("evolution", "promote"), ("random", "stop"), ("cluster", "promote")]
)
def test_every_candidate_and_every_decision_follows_from_the_records(
    tmp_path: Path, sampler: str, stopping: str
) -> None:
    settings = SearchSettings.model_validate(
        {"study": "s", "space": "layers", "replay": str(TABLE), "sampler": sampler, "stopping": stopping, "seed": 1,
         "budget": {"trials": 40}}
    )  # fmt: skip
    table = replay.table(str(TABLE))
    plan = replay.plan(settings, table, places(tmp_path, tracking="none"))
    clock = simulated.Clock(epoch=1000.0)
    start(plan, lambda controller, _: simulated.run(controller, evaluator(table), 4, clock), Silent(), machine="",
          clock=clock)  # fmt: skip
    with Store.open(plan.places.store) as store:
        trials, events = store.trials("s"), store.events("s")
    records = Records(plan.settings, trials)
    decisions = proposals = 0
    for event in events:
        if event.trial is None:
            continue
        record = trials[event.trial]
        if event.trial not in records.known and record.control is None:
            request = Request(
                space=plan.space, objectives=settings.objective_list, seed=settings.seed, number=event.trial
            )
            (proposal,) = SAMPLERS[sampler](History(records.known.values()), request)
            assert content_hash(proposal.architecture) == record.candidate.hash
            assert proposal.parents == record.parents
            proposals += 1
        if event.kind == "promote":
            assert event.rung is not None
            assert event.message.startswith(records.place(event.trial, event.rung))
        records.follow(event)
        if event.kind in DECIDED and event.rung is not None:
            assert event.message.startswith(f"{records.place(event.trial, event.rung)}, "), event
            decisions += 1
    assert proposals == 40
    assert decisions > 60
