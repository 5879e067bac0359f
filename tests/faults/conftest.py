"""A table of 600 candidates, so that a whole search takes seconds and can be killed often."""

import os
import random
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from hybridsearch.db.store import Store, TrialRecord
from hybridsearch.errors import StoreUnavailable, UnknownStudy
from hybridsearch.search_spaces import catalog
from hybridsearch.settings import EvaluationSettings, RungSettings
from hybridsearch.spec import cost
from hybridsearch.spec.architecture import Architecture
from hybridsearch.spec.canonical import canonical_json, content_hash, readable_name
from hybridsearch.tabular import parquet
from hybridsearch.tabular.table import About, Run, Table
from hybridsearch.trial import Candidate, Report

EVALUATION = EvaluationSettings(rungs=RungSettings(steps=(10, 30, 90)))
SEARCH = """
study: drill
space: tiny
replay: table.parquet
seed: 4
sampler: nsga2
budget: {trials: 250}
workers: {count: 4}
"""
SECONDS = 120
"""Longest that one command may take on two busy cores."""
ENVIRONMENT = {**os.environ, "OMP_NUM_THREADS": "1", "NO_COLOR": "1"}


def _candidate(architecture: Architecture) -> Candidate:
    return Candidate(
        hash=content_hash(architecture),
        canonical=canonical_json(architecture),
        name=readable_name(architecture),
        parameters=cost.parameters(architecture),
        state_bytes=cost.state_bytes(architecture, 4096),
        flops_per_token=cost.flops_per_token(architecture, 4096),
    )


def _report(rung: int, ability: float, speed: float) -> Report:
    recall = ability * (rung + 1) / 3
    metrics = {"recall": recall, "answer_loss": 1 - recall, "decode_tokens_per_second": speed}
    steps = EVALUATION.rungs.steps[rung]
    return Report(trial=0, rung=rung, steps=steps, metrics=metrics, seconds=steps / speed, device="a machine")


@pytest.fixture(scope="session")
def table(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """600 candidates at 3 rungs, recall and speed by chance."""
    rng = random.Random(0)
    listing = catalog.load("tiny").listing
    assert listing is not None
    candidates = [_candidate(architecture) for architecture in rng.sample(listing, 600)]
    runs = []
    for candidate in candidates:
        ability, speed = rng.random(), rng.uniform(10, 100)
        reports = tuple(_report(rung, ability, speed) for rung in range(3))
        runs.append(Run(hash=candidate.hash, seed=0, reports=reports))
    about = About(
        space=catalog.document("tiny", Path()).data, evaluation=EVALUATION,
        objectives=("recall", "decode_tokens_per_second"), machines=("a machine",), versions={}, commit="", sources=(),
    )  # fmt: skip
    path = tmp_path_factory.mktemp("table") / "table.parquet"
    parquet.write(Table(about=about, candidates={c.hash: c for c in candidates}, runs=tuple(runs)), path)
    return path


class Drill:
    """The same search in folders of its own, run by the program's command line."""

    def __init__(self, root: Path, table: Path) -> None:
        self._root, self._table = root, table

    def folder(self, name: str) -> Path:
        """A folder with the search and its table in it."""
        place = self._root / name
        if not place.exists():
            place.mkdir()
            (place / "drill.yaml").write_text(SEARCH)
            os.link(self._table, place / "table.parquet")
        return place

    def start(self, name: str, *arguments: str) -> "subprocess.Popen[bytes]":
        """Start a command there; what it says goes into `log.txt`."""
        place = self.folder(name)
        command = [sys.executable, "-m", "hybridsearch", "--tracking", "none", *arguments]
        with (place / "log.txt").open("ab") as log:
            return subprocess.Popen(command, cwd=place, env=ENVIRONMENT, stdout=log, stderr=log)

    def finish(self, name: str, process: "subprocess.Popen[bytes]") -> dict[int, TrialRecord]:
        """Wait for the end of a search that goes well; its trials."""
        code = process.wait(SECONDS)
        assert code == 0, (self.folder(name) / "log.txt").read_text()
        return self.ended(name)

    def ended(self, name: str, store: str = "runs/hybridsearch.db") -> dict[int, TrialRecord]:
        """The trials that have ended, by number; none before there is a study."""
        try:
            with Store.open(f"sqlite:///{self.folder(name) / store}", create=False) as opened:
                return {t.number: t for t in opened.trials("drill") if t.state.final}
        except (StoreUnavailable, UnknownStudy):
            return {}

    def wait_for(self, name: str, process: "subprocess.Popen[bytes]", more_than: int) -> dict[int, TrialRecord]:
        """The trials once more than so many have ended, or the search is over."""
        limit = time.monotonic() + SECONDS
        while len(found := self.ended(name)) <= more_than and process.poll() is None:
            assert time.monotonic() < limit, (self.folder(name) / "log.txt").read_text()
            time.sleep(0.01)
        return found


def outcome_of(ended: dict[int, TrialRecord]) -> list[tuple[object, ...]]:
    """What a search proposed, measured and decided, and how long after its begin."""
    begin = ended[0].created
    return [
        (t.number, t.candidate.hash, t.sampler, t.parents, t.state, t.message, t.reports, (t.ended or 0.0) - begin)
        for t in ended.values()
    ]


@pytest.fixture
def drill(tmp_path: Path, table: Path) -> Drill:
    return Drill(tmp_path, table)


@pytest.fixture
def outcome() -> Callable[[dict[int, TrialRecord]], list[tuple[object, ...]]]:
    return outcome_of


@pytest.fixture(scope="session")
def undisturbed(tmp_path_factory: pytest.TempPathFactory, table: Path) -> list[tuple[object, ...]]:
    """The outcome of a search to which nothing happens."""
    drill = Drill(tmp_path_factory.mktemp("undisturbed"), table)
    return outcome_of(drill.finish("whole", drill.start("whole", "search", "drill.yaml")))
