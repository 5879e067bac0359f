"""Many kinds of faults over one search under real Ray: workers and controllers are killed, the database is locked, no
MLflow server answers, and trials run out of memory, diverge, or break a kernel.

`HYBRIDSEARCH_DRILL=10 pytest tests/faults/test_drill.py` has ten rounds of kills in place of one.
"""

import os
import random
import signal
import socket
import sqlite3
import subprocess
import sys
import time
import uuid
from collections import Counter
from pathlib import Path

import pytest

from hybridsearch.db.store import Store, TrialRecord
from hybridsearch.errors import FailureReason, StoreUnavailable, UnknownStudy
from hybridsearch.trial import TrialState

ROUNDS = int(os.environ.get("HYBRIDSEARCH_DRILL", "1"))
SECONDS = 150.0
TRIALS = 8 + 4 * ROUNDS
PROGRAM = Path(__file__).parent / "faulty_search.py"
EXPECTED = {5: FailureReason.OUT_OF_MEMORY, 6: FailureReason.NOT_A_NUMBER, 7: FailureReason.KERNEL}
"""What `faulty_search.py` does to some trials; 4 runs out of memory once, and then has what it needs."""


class Drill:
    """One search in a folder, its controller, and its workers."""

    def __init__(self, folder: Path) -> None:
        self._folder, self._mark = folder, uuid.uuid4().hex
        self.url = f"sqlite:///{folder}/runs/hybridsearch.db"
        with socket.socket() as free:  # where no MLflow server is
            free.bind(("127.0.0.1", 0))
            self._nowhere = f"http://127.0.0.1:{free.getsockname()[1]}"

    def start(self) -> "subprocess.Popen[bytes]":
        environment = {**os.environ, "OMP_NUM_THREADS": "1", "HYBRIDSEARCH_DRILL_MARK": self._mark}
        command = [sys.executable, str(PROGRAM), str(self._folder / "runs"), str(TRIALS), self._nowhere]
        with (self._folder / "log.txt").open("ab") as log:
            return subprocess.Popen(command, env=environment, stdout=log, stderr=log)

    def said(self) -> str:
        return (self._folder / "log.txt").read_text()

    def ended(self) -> dict[int, TrialRecord]:
        try:
            with Store.open(self.url, create=False) as store:
                return {t.number: t for t in store.trials("drill") if t.state.final}
        except (StoreUnavailable, UnknownStudy):
            return {}

    def workers(self) -> list[int]:
        """Processes that train."""
        return [pid for pid, command in self._processes() if command.startswith(b"ray::ImplicitFunc")]

    def end_what_is_left(self) -> None:
        """Ray's processes outlive a controller that was killed by some seconds: long enough to disturb its heir."""
        for pid, _ in self._processes():
            os.kill(pid, signal.SIGKILL)

    def hold_the_database(self, seconds: float) -> None:
        holder = sqlite3.connect(self._folder / "runs" / "hybridsearch.db", isolation_level=None, timeout=30)
        holder.execute("BEGIN IMMEDIATE")
        time.sleep(seconds)
        holder.execute("ROLLBACK")
        holder.close()

    def _processes(self) -> list[tuple[int, bytes]]:
        found = []
        for folder in Path("/proc").glob("[0-9]*"):
            try:
                ours = self._mark.encode() in (folder / "environ").read_bytes()
                if ours and int(folder.name) != os.getpid():
                    found.append((int(folder.name), (folder / "cmdline").read_bytes()))
            except OSError:  # it ended meanwhile
                continue
        return found


def more_ended(drill: Drill, process: "subprocess.Popen[bytes]", known: int) -> None:
    limit = time.monotonic() + SECONDS
    while process.poll() is None and len(drill.ended()) <= known:
        assert time.monotonic() < limit, drill.said()
        time.sleep(0.05)


@pytest.mark.timeout(200 + 120 * ROUNDS)
def test_whatever_happens_no_trial_is_lost_or_repeated_and_the_search_ends(tmp_path: Path) -> None:
    drill, rng = Drill(tmp_path), random.Random(3)
    process = drill.start()
    for round_ in range(ROUNDS):
        more_ended(drill, process, len(drill.ended()))
        if (victims := drill.workers()) and process.poll() is None:
            os.kill(rng.choice(victims), signal.SIGKILL)
        drill.hold_the_database(rng.uniform(0.5, 1.5))
        before = drill.ended()
        more_ended(drill, process, len(before))
        time.sleep(rng.uniform(0.0, 0.5))
        assert process.poll() is None, f"it ended before kill {round_ + 1}; give it more trials\n{drill.said()}"
        before = drill.ended()
        process.kill()
        process.wait()
        drill.end_what_is_left()
        kept = drill.ended()
        assert all(kept.get(number) == trial for number, trial in before.items()), "an ended trial has changed"
        process = drill.start()
    assert process.wait(SECONDS) == 0, drill.said()
    check(drill)


def check(drill: Drill) -> None:
    with Store.open(drill.url, create=False) as store:
        trials = store.trials("drill")
        events = store.events("drill")
    assert len(trials) == TRIALS + 3
    assert len({t.candidate.hash for t in trials}) == len(trials)
    failed = {t.number: t.reason for t in trials if t.state is TrialState.FAILED}
    assert failed == EXPECTED
    assert {t.state for t in trials if t.number not in EXPECTED} == {TrialState.FINISHED}
    assert all([r.rung for r in t.reports] == [0, 1, 2] for t in trials if t.state is TrialState.FINISHED)
    ends = Counter(e.trial for e in events if e.kind in ("finished", "failed"))
    assert ends == Counter(range(len(trials)))
    again = Counter(e.trial for e in events if e.kind == "waiting" and e.message.startswith("out of memory: "))
    assert again == {4: 1, 5: 1}
    front = drill.said().splitlines()[-1]
    assert front.startswith("front ") and not {int(n) for n in front.split()[1:]} & set(EXPECTED)
    assert drill.said().count("the search goes on without it") == ROUNDS + 1, "no MLflow server answers"
    assert "Traceback" not in drill.said()
