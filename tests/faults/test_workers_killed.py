"""kill -9 of the worker processes of a search that trains: each trial comes again, and ends once."""

import os
import random
import signal
import subprocess
import sys
import time
import uuid
from collections import Counter
from pathlib import Path

import pytest

from hybridsearch.db.store import Store
from hybridsearch.errors import StoreUnavailable, UnknownStudy
from hybridsearch.trial import TrialState

SEARCH = """
study: drill
space:
  width: 16
  depth: 2
  mixers:
    full: {heads: 2, head_dim: 8}
    gated_delta: {heads: 2, head_dim: [4, 8]}
  layers: {free: [full, gated_delta]}
budget: {trials: 3}
stopping: 'off'
evaluation:
  task:
    vocabulary: 32
    train: [{length: 16, pairs: 2}]
    test: [{length: 16, pairs: 2}, {length: 16, pairs: 4}]
    test_examples: 32
  training: {batch: 8, warmup: 0.0, learning_rates: [0.003]}
  rungs: {steps: [20, 60]}
  throughput: {contexts: [16, 32], batches: [1, 2], decode_tokens: 4, repeats: 3}
workers: {count: 2, retries: 20}
"""
KILLS = int(os.environ.get("HYBRIDSEARCH_KILLS", "4")) // 2
SECONDS = 240 + 30 * KILLS


def workers(mark: str) -> list[int]:
    """Processes of this search's Ray that train."""
    found = []
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            ours = mark.encode() in (folder / "environ").read_bytes()
            trains = (folder / "cmdline").read_bytes().startswith(b"ray::ImplicitFunc")
        except OSError:  # it ended meanwhile
            continue
        if ours and trains:
            found.append(int(folder.name))
    return found


def running(store_url: str) -> bool:
    try:
        with Store.open(store_url, create=False) as store:
            return store.counts("drill")[TrialState.RUNNING] > 0
    except (StoreUnavailable, UnknownStudy):
        return False


@pytest.mark.timeout(60 + 2 * SECONDS)
def test_every_trial_ends_once(tmp_path: Path) -> None:
    (tmp_path / "drill.yaml").write_text(SEARCH)
    mark = uuid.uuid4().hex
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "NO_COLOR": "1", "HYBRIDSEARCH_DRILL": mark}
    command = [sys.executable, "-m", "hybridsearch", "--tracking", "none", "search", "drill.yaml"]
    url = f"sqlite:///{tmp_path}/runs/hybridsearch.db"
    rng = random.Random(2)
    killed, limit = 0, time.monotonic() + SECONDS
    with (tmp_path / "log.txt").open("wb") as log:
        search = subprocess.Popen(command, cwd=tmp_path, env=environment, stdout=log, stderr=log)
        while killed < KILLS and search.poll() is None:
            assert time.monotonic() < limit, (tmp_path / "log.txt").read_text()
            time.sleep(rng.uniform(0.05, 0.4))
            victims = workers(mark) if running(url) else []
            if victims:
                os.kill(rng.choice(victims), signal.SIGKILL)
                killed += 1
        assert search.wait(SECONDS) == 0, (tmp_path / "log.txt").read_text()
    assert killed == KILLS
    with Store.open(url, create=False) as store:
        trials = store.trials("drill")
        ends = Counter(event.trial for event in store.events("drill") if event.kind == "finished")
        lost = [event for event in store.events("drill") if "worker lost" in event.message]
    assert {t.state for t in trials} == {TrialState.FINISHED}
    assert ends == dict.fromkeys((t.number for t in trials), 1)
    assert all([r.rung for r in t.reports] == [0, 1] for t in trials)
    assert lost
