"""The whole product as a user drives it: search, kill -9, resume, pareto, export, train. Real Ray, real training."""

import json
import os
import signal
import sqlite3
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from hybridsearch.db.store import Store
from hybridsearch.errors import StoreUnavailable, UnknownStudy
from hybridsearch.export import native
from hybridsearch.trial import TrialState

SETTINGS = """
study: tiny-hybrids
space:
  width: 16
  depth: 2
  mixers:
    full: {heads: 2, head_dim: 8}
    gated_delta: {heads: 2, head_dim: [4, 8]}
  layers: {free: [full, gated_delta]}
  feed_forward: {width: 32}
budget: {trials: 3}
evaluation:
  task:
    vocabulary: 32
    train: [{length: 16, pairs: 2}]
    test: [{length: 16, pairs: 2}, {length: 16, pairs: 4}]
    test_examples: 32
  training: {batch: 8, warmup: 0.0, learning_rates: [0.003, 0.01], seeds: 2}
  rungs: {steps: [10, 40]}
  throughput: {contexts: [16, 32], batches: [1, 2], decode_tokens: 4, repeats: 3}
workers: {count: 2}
"""
SECONDS = 150
"""Longest that one command may take on two busy cores."""


def environment() -> dict[str, str]:
    return {**os.environ, "OMP_NUM_THREADS": "1", "NO_COLOR": "1"}


def hybridsearch(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "hybridsearch", *arguments]
    return subprocess.run(
        command, cwd=folder, env=environment(), capture_output=True, text=True, timeout=SECONDS, check=False
    )


def finished(folder: Path) -> dict[int, Any]:
    """The finished trials as the store has them; none before there is a store with the study in it."""
    try:
        with Store.open(f"sqlite:///{folder}/runs/hybridsearch.db", create=False) as store:
            return {t.number: t for t in store.trials("tiny-hybrids", {TrialState.FINISHED})}
    except (StoreUnavailable, UnknownStudy):
        return {}


def killed_search(folder: Path, after: int) -> dict[int, Any]:
    """Start the search, and kill -9 its controller once `after` trials are finished."""
    command = [sys.executable, "-m", "hybridsearch", "search", "tiny.yaml"]
    with (folder / "log.txt").open("w") as log:
        process = subprocess.Popen(command, cwd=folder, env=environment(), stdout=log, stderr=log)
        deadline = time.monotonic() + SECONDS
        while len(finished(folder)) < after:
            assert process.poll() is None, (folder / "log.txt").read_text()
            assert time.monotonic() < deadline, (folder / "log.txt").read_text()
            time.sleep(0.1)
        os.kill(process.pid, signal.SIGKILL)
        process.wait()
    return finished(folder)


@pytest.mark.timeout(600)
def test_search_kill_resume_pareto_export_train(tmp_path: Path) -> None:
    (tmp_path / "tiny.yaml").write_text(SETTINGS)
    before = killed_search(tmp_path, after=1)
    assert 1 <= len(before) < 6

    resumed = hybridsearch(tmp_path, "resume", "tiny-hybrids")
    assert resumed.returncode == 0, resumed.stderr
    after = finished(tmp_path)
    assert {n: after[n] for n in before} == before
    check_store(tmp_path)
    check_mlflow(tmp_path)
    assert "hybridsearch export tiny-hybrids" in resumed.stdout
    assert "Traceback" not in resumed.stderr

    listed = hybridsearch(tmp_path, "pareto", "tiny-hybrids", "--all", "--format", "json")
    assert listed.returncode == 0, listed.stderr
    rows = json.loads(listed.stdout)
    assert {row["trial"] for row in rows} == set(after)
    assert {row["control"] for row in rows} >= {"full", "linear"}

    exported = hybridsearch(tmp_path, "export", "tiny-hybrids", "--pick", "recall", "--out", "best.yaml")
    assert exported.returncode == 0, exported.stderr
    assert native.read(tmp_path / "best.yaml").width == 16
    check_training(tmp_path)


def check_store(folder: Path) -> None:
    """Nothing was repeated or lost: one report a rung, every architecture once, every trial in a final state."""
    with Store.open(f"sqlite:///{folder}/runs/hybridsearch.db", create=False) as store:
        trials = store.trials("tiny-hybrids")
    assert len(trials) == 6
    assert {t.state for t in trials} <= {TrialState.FINISHED, TrialState.STOPPED}
    assert [t.control for t in trials[:3]] == ["full", "linear", "three_to_one"]
    assert len({t.candidate.hash for t in trials}) == 6
    for trial in trials:
        assert [r.rung for r in trial.reports] == list(range(len(trial.reports)))
        assert all(len(r.replicates["recall"]) == 2 for r in trial.reports)
        assert {m.key for m in trial.reports[0].measurements} >= {"decode_tokens_per_second/32x2"}


def check_mlflow(folder: Path) -> None:
    """One parent, one child a trial, although the first controller was killed."""
    with sqlite3.connect(folder / "runs" / "mlflow.db") as database:
        parents = Counter(
            value for (value,) in database.execute("select value from tags where key = 'mlflow.parentRunId'")
        )
        names = [name for (name,) in database.execute("select name from runs")]
    assert list(parents.values()) == [6]
    assert len(names) == 7
    assert len(set(names)) == 7


def check_training(folder: Path) -> None:
    """The exported architecture learns the user's text, goes on after a stop, and writes."""
    (folder / "book.txt").write_text("the cat sat on the mat and the dog sat on the log. " * 200)
    common = ("train", "best.yaml", "--data", "book.txt", "--out", "model", "--batch", "4", "--context", "32")
    first = hybridsearch(folder, *common, "--steps", "20")
    assert first.returncode == 0, first.stderr
    again = hybridsearch(
        folder, "train", "best.yaml", "--out", "model", "--resume", "--steps", "40", "--prompt", "the "
    )
    assert again.returncode == 0, again.stderr
    assert "the " in again.stdout
    assert list((folder / "model").glob("**/*.safetensors"))
