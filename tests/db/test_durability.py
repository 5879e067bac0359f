"""What was committed stays, whatever happens to the processes: kill -9, many readers, openings at once, forks."""

import json
import os
import signal
import sqlite3
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from threading import Event as Flag

import pytest
from sqlalchemy import make_url

from hybridsearch.db.store import Event, Store, StudyRecord
from hybridsearch.trial import Candidate, Report, TrialState

WRITER = """
import sys
from hybridsearch.db.store import Event, Store
from hybridsearch.trial import Candidate, Report, TrialState

store = Store.open(sys.argv[1])
store.claim("recall")
while True:
    digest = f"{len(store.trials('recall')):064x}"
    new = Candidate(hash=digest, canonical="{}", name="n", parameters=1, state_bytes=1, flops_per_token=1)
    number = store.add_trial("recall", new, sampler="random", seed=1, note="x" * 3000).number
    store.set_state("recall", number, TrialState.RUNNING)
    for rung, state in enumerate((None, TrialState.FINISHED)):
        report = Report(trial=number, rung=rung, steps=rung, metrics={"recall": number / 7})
        store.record("recall", report, state=state, event=Event(kind="rung", rung=rung))
    print(number, flush=True)
"""
"""Says every number of a trial that is finished and committed."""

OPENER = """
import sys
from hybridsearch.db.store import Store

print("ready", flush=True)
sys.stdin.readline()
with Store.open(sys.argv[1]) as store:
    print([study.name for study in store.studies()], flush=True)
"""

READER = """
import json, sys, time
from hybridsearch.db.store import Store
from hybridsearch.trial import TrialState

print("ready", flush=True)
with Store.open(sys.argv[1], create=False) as store:
    seen = [len(store.trials("recall"))]
    while seen[-1] < int(sys.argv[2]):
        trials = store.trials("recall")
        assert [trial.number for trial in trials] == list(range(len(trials))), "a gap"
        for trial in trials:
            assert (trial.state is TrialState.FINISHED) == (len(trial.reports) == 2), f"half of trial {trial.number}"
        assert len(store.trials("recall")) >= len(trials) >= seen[-1], "a trial was lost"
        seen.append(len(trials))
        time.sleep(0.01)
    print(json.dumps(seen), flush=True)
"""

Process = subprocess.Popen[str]


def start(code: str, *arguments: object) -> Process:
    return subprocess.Popen(
        [sys.executable, "-c", code, *map(str, arguments)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )


def said(process: Process) -> str:
    """The next line of the process."""
    assert process.stdout is not None
    return process.stdout.readline()


@contextmanager
def ended(processes: Sequence[Process]) -> Iterator[None]:
    """No process outlives the test."""
    try:
        yield
    finally:
        for process in processes:
            process.kill()
            process.communicate()


@pytest.mark.parametrize("finished", [1, 4, 9])
def test_kill_9_loses_nothing_committed(store: Store, store_url: str, study: StudyRecord, finished: int) -> None:
    writer = start(WRITER, store_url)
    with ended([writer]):
        told = [int(said(writer)) for _ in range(finished)]
        writer.send_signal(signal.SIGKILL)
        assert writer.stdout is not None
        told += [int(line) for line in writer.stdout.read().splitlines()]  # said before the signal arrived
    if store_url.startswith("sqlite"):
        with sqlite3.connect(make_url(store_url).database or "") as connection:
            assert connection.execute("PRAGMA integrity_check").fetchall() == [("ok",)]
        connection.close()
    with Store.open(store_url) as again:
        trials = again.trials("recall")
        assert [trial.number for trial in trials] == list(range(len(trials)))
        assert told == list(range(len(told)))
        assert len(trials) - len(told) in (0, 1)
        for trial in trials:
            rungs = [
                event.rung for event in again.events("recall") if (event.trial, event.kind) == (trial.number, "rung")
            ]
            assert rungs == [report.rung for report in trial.reports]
            assert (trial.state is TrialState.FINISHED) == (len(rungs) == 2)
            assert all(report.metrics == {"recall": trial.number / 7} for report in trial.reports)
        assert {trial.state for trial in trials[: len(told)]} == {TrialState.FINISHED}
        assert again.claim("recall") is not None  # the killed process still has it, and is seen to be dead


def test_many_processes_open_a_fresh_database_at_once(url: str) -> None:
    openers = [start(OPENER, url) for _ in range(4)]
    with ended(openers):
        assert [said(opener) for opener in openers] == ["ready\n"] * 4
        for opener in openers:
            assert opener.stdin is not None
            opener.stdin.write("go\n")
            opener.stdin.flush()
        assert [said(opener) for opener in openers] == ["[]\n"] * 4


def test_threads_open_fresh_databases_at_once(new_url: Callable[[], str]) -> None:
    def opened(url: str) -> int:
        with Store.open(url) as store:
            return len(store.studies())

    with ThreadPoolExecutor(8) as threads:
        for _ in range(3):
            assert list(threads.map(opened, [new_url()] * 8)) == [0] * 8


def test_eight_readers_see_whole_trials_while_one_writes(
    store: Store,
    store_url: str,
    study: StudyRecord,
    candidate: Callable[..., Candidate],
    report: Callable[..., Report],
) -> None:
    count = 20
    readers = [start(READER, store_url, count) for _ in range(2)]
    flag = Flag()
    with ended(readers), ThreadPoolExecutor(6) as threads:
        in_threads = [threads.submit(_read_until, store, flag) for _ in range(6)]
        assert [said(reader) for reader in readers] == ["ready\n"] * 2
        for number in range(count):
            store.add_trial("recall", candidate(number), sampler="random", seed=1)
            store.add_report("recall", report(number, 0))
            store.record("recall", report(number, 1), state=TrialState.FINISHED, event=Event(kind="done"))
        flag.set()
        assert all(reads.result() > 0 for reads in in_threads)
        for reader in readers:
            seen = json.loads(said(reader))
            assert seen == sorted(seen)
            assert seen[-1] == count


def _read_until(store: Store, flag: Flag) -> int:
    reads = 0
    while not flag.wait(0.01) or not reads:
        for trial in store.trials("recall"):
            assert (trial.state is TrialState.FINISHED) == (len(trial.reports) == 2)
        reads += 1
    return reads


def test_writers_at_once_leave_no_gap_and_no_repeat(
    store: Store, study: StudyRecord, candidate: Callable[..., Candidate]
) -> None:
    def add(number: int) -> int:
        return store.add_trial("recall", candidate(number % 5), sampler="random", seed=number).number

    with ThreadPoolExecutor(8) as threads:
        numbers = list(threads.map(add, range(32)))
    assert sorted(numbers) == list(range(32))
    assert [trial.number for trial in store.trials("recall")] == list(range(32))


@pytest.mark.filterwarnings("ignore:.*multi-threaded.*fork:DeprecationWarning")
def test_a_forked_process_gets_connections_of_its_own(
    store: Store, study: StudyRecord, candidate: Callable[..., Candidate]
) -> None:
    store.claim("recall")
    with store._transactions.read() as connection:
        parents = connection.connection.dbapi_connection
    read, write = os.pipe()
    child = os.fork()
    if child == 0:  # nothing of pytest may run here
        try:
            store.create_study("child", "{}", seed=1, space_json="{}", versions={})
            with store._transactions.read() as connection:
                os.write(write, b"shared" if connection.connection.dbapi_connection is parents else b"own")
        finally:
            os._exit(0)
    os.close(write)
    with os.fdopen(read, "rb") as pipe:
        assert pipe.read() == b"own"
    os.waitpid(child, 0)
    store.add_trial("recall", candidate(), sampler="random", seed=1)
    assert [found.name for found in store.studies()] == ["recall", "child"]
