"""A search on simulated time that is killed anywhere: with several workers too it ends as if nothing had happened."""

import random
import signal
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from hybridsearch.control import launch, simulated
from hybridsearch.control.loop import Controller
from hybridsearch.control.places import places
from hybridsearch.control.snapshot import Silent
from hybridsearch.db.store import Store
from hybridsearch.db.transactions import Transactions
from hybridsearch.errors import FailureReason, TrialFailure
from hybridsearch.settings import BudgetSettings, SearchSettings, WorkerSettings
from hybridsearch.trial import Evaluator, Job, Report, TrialState
from hybridsearch.yaml_files import Document

SPACE = (Path(__file__).parents[1] / "small_space.yaml").read_text(encoding="utf-8")


class Killed(BaseException):
    """Stands for kill -9: nothing of the program may hold it up."""


def uneven(evaluator: Evaluator) -> Evaluator:
    """Every trial takes its own time, no whole number of seconds; some run out of memory, once or for good."""

    def evaluate(job: Job) -> Iterator[Report]:
        if job.trial % 7 == 4 or (job.trial % 7 == 6 and job.share == 1):
            raise TrialFailure(FailureReason.OUT_OF_MEMORY, "wanted 9 GB")
        for report in evaluator(job):
            yield replace(report, seconds=0.3 + int(job.hash[report.rung : report.rung + 4], 16) / 7919)

    return evaluate


class Replay:
    """One study on simulated time; `run` is what a fresh process would do."""

    def __init__(self, root: Path, evaluator: Evaluator, **changes: Any) -> None:
        data = {"study": "s", "space": "given", "budget": {"trials": 20}, "workers": {"count": 4}, **changes}
        data["evaluation"] = {"rungs": {"steps": [25, 50, 100]}, "training": {"warmup": 0.1}}
        self.settings = SearchSettings.model_validate(data)
        self.places = places(root, tracking="none")
        self.evaluator = evaluator
        self.plan = launch.plan(self.settings, Document(SPACE, "space.yaml"), self.places)

    def run(self, drain_after: int | None = None, budget: int | None = None) -> bool:
        """Start or resume; drain when that many further trials have begun. Whether something is left to do."""
        clock = simulated.Clock(epoch=1_790_000_000.123)
        jobs = 0

        def evaluate(job: Job) -> Iterator[Report]:
            nonlocal jobs
            jobs += 1
            if jobs == drain_after:
                signal.raise_signal(signal.SIGINT)
            return self.evaluator(job)

        def execute(controller: Controller, workers: WorkerSettings) -> None:
            simulated.run(controller, evaluate, workers.count or 1, clock)

        with Store.open(self.places.store) as store:
            known = bool(store.studies())
        if known:
            change = launch.with_limits(BudgetSettings(trials=budget) if budget else None, None)
            ended = launch.resume("s", self.places, execute, Silent(), change, clock=clock)
        else:
            ended = launch.start(self.plan, execute, Silent(), machine="", clock=clock)
        return ended.ending == "interrupted"

    def outcome(self) -> list[tuple[Any, ...]]:
        """Everything that was recorded of the trials, times included (from the study's beginning)."""
        with Store.open(self.places.store) as store:
            begin, trials = store.study("s").created, store.trials("s")
        said = [(t.number, t.candidate.hash, t.sampler, t.parents, t.state, t.message, t.reports) for t in trials]
        times = [[time and time - begin for time in (t.created, t.started, t.ended)] for t in trials]
        return list(zip(said, times, strict=True))

    def seconds(self) -> float:
        """Search time over all resumes."""
        with Store.open(self.places.store) as store:
            return store.study("s").elapsed


@pytest.fixture
def replayed(tmp_path: Path, evaluator: Evaluator) -> Callable[..., Replay]:
    def build(folder: str, **changes: Any) -> Replay:
        return Replay(tmp_path / folder, uneven(evaluator), **changes)

    return build


def killed_every(monkeypatch: pytest.MonkeyPatch, rng: random.Random, most: int) -> None:
    """Let a process die after every 1 to `most` of its transactions."""
    left = [rng.randint(1, most)]
    write = Transactions.write_study

    def counting(self: Transactions, study: str) -> Any:
        left[0] -= 1
        if left[0] < 0:
            left[0] = rng.randint(1, most)
            raise Killed
        return write(self, study)

    monkeypatch.setattr(Transactions, "write_study", counting)


@pytest.mark.parametrize(("stopping", "workers"), [("promote", 4), ("stop", 3)])
def test_killed_at_any_write_it_ends_as_if_nothing_had_happened(
    replayed: Callable[..., Replay], monkeypatch: pytest.MonkeyPatch, stopping: str, workers: int
) -> None:
    changes = {"stopping": stopping, "workers": {"count": workers}, "confirm": 2}
    whole, killed = replayed("whole", **changes), replayed("killed", **changes)
    whole.run()
    kills = 0
    with monkeypatch.context() as dying:
        killed_every(dying, random.Random(workers), 20)
        while True:
            try:
                killed.run()
                break
            except Killed:
                kills += 1
    assert kills > 10
    assert killed.outcome() == whole.outcome()
    assert killed.seconds() == whole.seconds()
    states = {said[4] for said, _ in whole.outcome()}
    assert states == {TrialState.FINISHED, TrialState.STOPPED, TrialState.FAILED}


def test_put_down_by_a_drain_again_and_again_it_ends_as_if_nothing_had_happened(
    replayed: Callable[..., Replay],
) -> None:
    whole, drained = replayed("whole"), replayed("drained")
    whole.run()
    drains = 0
    while drained.run(drain_after=7):
        drains += 1
    assert drains > 3
    assert drained.outcome() == whole.outcome()
    assert drained.seconds() == whole.seconds()


def test_with_a_larger_budget_those_that_waited_at_the_end_may_go_on(replayed: Callable[..., Replay]) -> None:
    replay = replayed("longer", budget={"trials": 9}, workers={"count": 2})
    replay.run()

    def trials() -> dict[int, Any]:
        with Store.open(replay.places.store) as store:
            return {t.number: t for t in store.trials("s")}

    before = trials()
    left = {number for number, trial in before.items() if trial.state is TrialState.STOPPED}
    assert left
    replay.run()
    assert trials() == before, "nothing more to do: nothing happens"
    replay.run(budget=40)
    after = trials()
    assert len(after) == 43
    assert {t.state for t in after.values()} == {TrialState.FINISHED, TrialState.STOPPED, TrialState.FAILED}
    further = [number for number in left if len(after[number].reports) > len(before[number].reports)]
    assert further
    assert all(after[n].reports[: len(before[n].reports)] == before[n].reports for n in left)
    assert all(after[n] == before[n] for n in before if n not in left)
