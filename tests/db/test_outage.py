"""A database that is away for some seconds, for real: a server that is restarted, a file that is locked."""

import signal
import sqlite3
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest
from sqlalchemy import make_url

from hybridsearch.db import transactions
from hybridsearch.db.store import Event, Store
from hybridsearch.errors import StoreUnavailable
from hybridsearch.trial import Candidate, Report, TrialState


class Writing(threading.Thread):
    """Adds trials that finish, one after the other, until it is told to end; keeps what a write raised."""

    def __init__(self, store: Store, candidate: Callable[..., Candidate]) -> None:
        super().__init__(daemon=True)
        self._store, self._candidate = store, candidate
        self._ending = threading.Event()
        self.finished = 0
        self.raised: Exception | None = None

    def run(self) -> None:
        try:
            while not self._ending.is_set():
                new = self._candidate(self.finished)
                number = self._store.add_trial("s", new, sampler="random", seed=1).number
                self._store.set_state("s", number, TrialState.RUNNING)
                report = Report(trial=number, rung=0, steps=1, metrics={"recall": 0.5})
                self._store.record("s", report, state=TrialState.FINISHED, event=Event(kind="done"))
                self.finished += 1
        except StoreUnavailable as error:
            self.raised = error

    def end(self) -> None:
        self._ending.set()
        self.join(30)

    def goes_on(self, trials: int = 5) -> None:
        """Wait until some more trials have finished."""
        wanted, limit = self.finished + trials, time.monotonic() + 60
        while self.finished < wanted and self.raised is None:
            assert time.monotonic() < limit, "it hangs"
            time.sleep(0.01)
        assert self.raised is None, self.raised


@contextmanager
def writing(url: str, candidate: Callable[..., Candidate]) -> Iterator[Writing]:
    """A store that is written to; in the end it holds every trial once."""
    with Store.open(url) as store:
        store.create_study("s", "{}", seed=1, space_json="{}", versions={})
        store.claim("s")
        thread = Writing(store, candidate)
        thread.start()
        thread.goes_on()
        yield thread
        thread.goes_on()
        thread.end()
        trials, events = store.trials("s"), store.events("s")
        assert [t.number for t in trials] == list(range(thread.finished))
        assert {t.state for t in trials} == {TrialState.FINISHED}
        assert len({t.candidate.hash for t in trials}) == thread.finished
        assert [e.trial for e in events if e.kind == "done"] == list(range(thread.finished))


@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGQUIT])
def test_a_restarted_server_loses_and_repeats_nothing(
    own_server: Any, candidate: Callable[..., Candidate], how: signal.Signals
) -> None:
    with writing(own_server.url, candidate) as thread:
        for seconds in (0.0, 0.5):
            own_server.stop(how)
            time.sleep(seconds)
            own_server.start()
            thread.goes_on()


def test_a_server_that_stays_away_is_given_up(
    own_server: Any, candidate: Callable[..., Candidate], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(transactions, "AWAY_SECONDS", 0.5)
    with Store.open(own_server.url) as store:
        store.create_study("s", "{}", seed=1, space_json="{}", versions={})
        own_server.stop()
        with pytest.raises(StoreUnavailable, match=r"no connection .* check that the server runs"):
            store.heartbeat("s")
        begin = time.monotonic()
        with pytest.raises(StoreUnavailable):
            store.heartbeat("s")
        assert time.monotonic() - begin < 0.5, "it is waited for once"


def test_a_file_that_is_locked_for_a_while_is_waited_for(tmp_path: Any, candidate: Callable[..., Candidate]) -> None:
    url = f"sqlite:///{tmp_path}/store.db"
    with writing(url, candidate) as thread:
        holder = sqlite3.connect(make_url(url).database or "", isolation_level=None, timeout=30)
        holder.execute("BEGIN IMMEDIATE")
        before = thread.finished
        time.sleep(1.5)
        assert thread.finished <= before + 1
        holder.execute("ROLLBACK")
        holder.close()
        thread.goes_on()
