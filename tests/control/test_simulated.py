"""A search on a simulated clock, over a made-up table: its order of events, failures, and the benchmark's fast form."""

import importlib.util
import sys
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from hybridsearch.control import loop, replay, simulated
from hybridsearch.control.launch import start
from hybridsearch.control.places import places
from hybridsearch.control.snapshot import Silent
from hybridsearch.db.store import Store
from hybridsearch.errors import FailureReason, Infeasible, InvalidSetting
from hybridsearch.search_spaces import catalog
from hybridsearch.settings import ConstraintSettings, EvaluationSettings, RungSettings, SearchSettings
from hybridsearch.spec.canonical import canonical_json, content_hash, readable_name
from hybridsearch.tabular.table import About, Run, Table
from hybridsearch.trial import Candidate, Evaluator, Job, Report, TrialState
from hybridsearch.workers.replay import chosen, evaluator

STEPS = (50, 100, 200)


@pytest.fixture(scope="module")
def table(whole: Callable[[Job], Iterator[Report]]) -> Table:
    """60 candidates of `tiny` with two seeds each; every 17th breaks at its second rung."""
    listing = catalog.load("tiny").listing
    assert listing is not None
    evaluation = EvaluationSettings(rungs=RungSettings(steps=STEPS))
    candidates, runs = {}, []
    for number, architecture in enumerate(listing[::66][:60]):
        digest, text = content_hash(architecture), canonical_json(architecture)
        candidates[digest] = Candidate(
            hash=digest,
            canonical=text,
            name=readable_name(architecture),
            parameters=1,
            state_bytes=1,
            flops_per_token=1,
        )
        for seed in (0, 1):
            job = Job(study="", trial=0, hash=digest, architecture=text, seed=seed, rungs=evaluation.rungs.ladder,
                      evaluation="", folder="")  # fmt: skip
            reports = tuple(replace(r, seconds=1.0 + (number % 5) + seed) for r in whole(job))
            broken = FailureReason.NOT_A_NUMBER if number % 17 == 3 else None
            runs.append(Run(hash=digest, seed=seed, reports=reports[:1] if broken else reports, failure=broken))
    about = About(
        space=catalog.document("tiny", Path()).data, evaluation=evaluation, machines=(), versions={}, commit="",
        objectives=("recall", "decode_tokens_per_second"), sources=("made up",),
    )  # fmt: skip
    return Table(about=about, candidates=candidates, runs=tuple(runs))


@pytest.fixture(scope="module")
def whole() -> Evaluator:
    """The fake evaluator of this folder's searches."""
    path = Path(__file__).parent / "conftest.py"
    fake: Evaluator = loaded(path).fake
    return fake


def loaded(path: Path) -> Any:
    """A module from its file, as `python FILE` would have it."""
    spec = importlib.util.spec_from_file_location(path.stem, path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[f"loaded_{path.stem}"] = sys.modules[path.stem] = module
    spec.loader.exec_module(module)
    return module


def searched(table: Table, root: Path, workers: int = 3, **changes: Any) -> list[tuple[float, str, str]]:
    """When every trial ended, in simulated seconds, and how, in the order of their ends."""
    settings = SearchSettings.model_validate({"study": "s", "space": "tiny", "budget": {"trials": 25}, **changes})
    plan = replay.plan(settings, table, places(root, tracking="none"))
    clock = simulated.Clock(epoch=1000.0)
    ended = start(
        plan, lambda c, _: simulated.run(c, evaluator(table), workers, clock), Silent(), machine="", clock=clock
    )
    assert ended.ending == "finished", "a signal (of a time limit, say) has drained it"
    with Store.open(plan.places.store) as store:
        return sorted((round((t.ended or 0) - 1000.0, 4), t.candidate.hash, t.state.value) for t in store.trials("s"))


def test_broken_runs_fail_at_their_rung_and_the_search_goes_on(table: Table, tmp_path: Path) -> None:
    ends = searched(table, tmp_path, budget={"trials": 200}, stopping="off")
    states = {state: sum(row[2] == state for row in ends) for state in ("finished", "failed")}
    assert states == {"finished": 56, "failed": 4}
    assert {digest for _, digest, _ in ends} == set(table.playable)


def test_the_time_is_that_of_the_busiest_worker(table: Table, tmp_path: Path) -> None:
    work = 0.0
    ends = searched(table, tmp_path, workers=1, budget={"trials": 200}, stopping="off")
    with Store.open(places(tmp_path).store) as store:
        for trial in store.trials("s"):
            work += sum(report.seconds for report in trial.reports)
    assert max(when for when, *_ in ends) == pytest.approx(work)


@pytest.mark.parametrize("stopping", ["promote", "stop", "off"])
def test_the_benchmark_in_memory_decides_as_the_store_does(
    table: Table, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, stopping: str
) -> None:
    monkeypatch.setattr(loop, "SHOW_SECONDS", loop.SHOW_SECONDS)  # the benchmark sets it for its whole process
    benchmarks = Path(__file__).parents[2] / "benchmarks"
    monkeypatch.syspath_prepend(benchmarks)
    fast = loaded(benchmarks / "search_on_table.py")
    fast.ENOUGH = 2.0
    method = {"sampler": "evolution", "stopping": stopping}
    found = fast.search(table, method, seed=4, workers=3, budget_seconds=90.0)
    minutes: dict[str, Any] = {"budget": {"minutes": 1.5}, "seed": 4, **method}
    finished = [(when, digest) for when, digest, state in searched(table, tmp_path, **minutes) if state == "finished"]
    assert [(round(when, 4), digest) for when, digest in sorted(found)] == finished
    assert len(finished) > 5
    assert 0.5 < fast.growth(table, found)[-1][1] <= 1.0


def test_a_trial_takes_a_run_by_its_own_seed(table: Table) -> None:
    digest = next(iter(table.playable))
    job = Job(study="s", trial=7, hash=digest, architecture="", seed=0, rungs=(), evaluation="", folder="")
    taken = [chosen(table, replace(job, seed=seed)).seed for seed in range(40)]
    assert taken == [chosen(table, replace(job, seed=seed)).seed for seed in range(40)]
    assert set(taken) == {0, 1}


def test_what_a_table_cannot_answer_is_refused_before_a_study_begins(table: Table, tmp_path: Path) -> None:
    where = places(tmp_path, tracking="none")
    settings = SearchSettings(space="tiny", constraints={"parameters": ConstraintSettings(maximum=1.0)})
    with pytest.raises(Infeasible):
        replay.plan(settings, table, where)
    bare = [replace(run, reports=tuple(replace(r, metrics={"recall": 1.0}) for r in run.reports)) for run in table.runs]
    poor = Table(about=table.about, candidates=table.candidates, runs=bare)
    with pytest.raises(InvalidSetting, match="no metric answer_loss"):
        replay.plan(SearchSettings(space="tiny"), poor, where)
    empty = Table(about=table.about, candidates=table.candidates, runs=())
    with pytest.raises(InvalidSetting, match="nothing to replay"):
        replay.plan(SearchSettings(space="tiny"), empty, where)


def test_waiting_trials_are_stopped_in_the_end(table: Table, tmp_path: Path) -> None:
    searched(table, tmp_path, stopping="promote")
    with Store.open(places(tmp_path).store) as store:
        assert all(trial.state.final for trial in store.trials("s"))
        assert any(trial.state is TrialState.STOPPED for trial in store.trials("s"))
