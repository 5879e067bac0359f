"""A table of 600 candidates, so that a whole search takes seconds and can be killed often."""

import os
import random
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

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
Start = Callable[..., "subprocess.Popen[bytes]"]


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


@pytest.fixture
def start(tmp_path: Path, table: Path) -> Start:
    """Starts the program in a folder of its own, with the table in it."""

    def begin(folder: str, *arguments: str) -> "subprocess.Popen[bytes]":
        place = tmp_path / folder
        place.mkdir(exist_ok=True)
        (place / "drill.yaml").write_text(SEARCH)
        if not (place / "table.parquet").exists():
            os.link(table, place / "table.parquet")
        log = (place / "log.txt").open("ab")
        command = [sys.executable, "-m", "hybridsearch", "--tracking", "none", *arguments]
        environment = {**os.environ, "OMP_NUM_THREADS": "1", "NO_COLOR": "1"}
        with log:
            return subprocess.Popen(command, cwd=place, env=environment, stdout=log, stderr=log)

    return begin
