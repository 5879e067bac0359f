"""One process runs a study: claims, take-overs, and writes of a process that lost its study, on every engine."""

import os
import socket
import subprocess
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from hybridsearch.db.store import Event, Store, StudyRecord
from hybridsearch.db.studies import this_process
from hybridsearch.errors import StoreUnavailable
from hybridsearch.trial import Candidate, Report, TrialState


@pytest.fixture
def ended() -> str:
    """The owner text of a process of this host that has ended."""
    process = subprocess.Popen([sys.executable, "-c", ""])
    process.wait()
    return f"{socket.gethostname()}:{process.pid}"


def test_the_owner_is_this_process_unless_named(store: Store, study: StudyRecord, clock: Any) -> None:
    assert store.claim("recall") is None
    found = store.study("recall")
    assert (found.owner, found.heartbeat) == (f"{socket.gethostname()}:{os.getpid()}", clock.now)


def test_a_second_claim_is_refused_and_names_the_owner(
    store: Store, store_url: str, study: StudyRecord, clock: Any
) -> None:
    store.claim("recall")
    clock.now += 4
    with Store.open(store_url, clock=clock) as other:
        with pytest.raises(StoreUnavailable, match=rf"`recall` is run by {this_process()}, last seen 4 s ago; .*120 s"):
            other.claim("recall", "elsewhere:12")
        other.add_event("recall", Event(kind="note"))  # who claimed nothing may still write, e.g. a tool
    assert store.study("recall").owner == this_process()


def test_claiming_again_is_allowed(store: Store, study: StudyRecord) -> None:
    store.claim("recall")
    assert store.claim("recall") is None


def test_a_silent_owner_is_replaced(store: Store, study: StudyRecord, clock: Any) -> None:
    store.claim("recall", "elsewhere:12")
    clock.now += 119.9
    with pytest.raises(StoreUnavailable, match="elsewhere:12"):
        store.claim("recall")
    clock.now += 0.1
    assert store.claim("recall") == "elsewhere:12"
    assert "takes over from elsewhere:12" in store.events("recall")[-1].message


def test_a_heartbeat_keeps_the_claim(store: Store, store_url: str, study: StudyRecord, clock: Any) -> None:
    store.claim("recall", "elsewhere:12")
    clock.now += 119
    store.heartbeat("recall", 1.0)
    clock.now += 119
    with Store.open(store_url, clock=clock) as other, pytest.raises(StoreUnavailable, match="last seen 119 s ago"):
        other.claim("recall")


def test_a_dead_process_of_this_host_is_replaced_at_once(store: Store, study: StudyRecord, ended: str) -> None:
    store.claim("recall", ended)
    assert store.claim("recall") == ended
    assert store.study("recall").owner == this_process()


@pytest.mark.parametrize("owner", ["elsewhere:1", "no pid", "elsewhere:x"])
def test_an_owner_that_cannot_be_looked_at_counts_as_alive(store: Store, study: StudyRecord, owner: str) -> None:
    store.claim("recall", owner)
    with pytest.raises(StoreUnavailable, match=owner):
        store.claim("recall")


def test_of_many_claims_at_once_one_wins(store: Store, store_url: str, study: StudyRecord, clock: Any) -> None:
    def claimed(number: int) -> bool:
        with Store.open(store_url, clock=clock) as other:
            try:
                other.claim("recall", f"elsewhere:{number}")
            except StoreUnavailable:
                return False
            return True

    with ThreadPoolExecutor(8) as threads:
        assert sum(threads.map(claimed, range(1, 9))) == 1


def test_release_gives_the_study_up(store: Store, store_url: str, study: StudyRecord) -> None:
    store.claim("recall")
    store.release("recall")
    store.release("recall")
    assert store.study("recall").owner is None
    with Store.open(store_url) as other:
        assert other.claim("recall", "elsewhere:12") is None


def test_a_process_that_lost_its_study_can_write_no_more(
    store: Store,
    store_url: str,
    study: StudyRecord,
    clock: Any,
    candidate: Callable[..., Candidate],
    report: Callable[..., Report],
) -> None:
    store.claim("recall")
    store.add_trial("recall", candidate(), sampler="random", seed=1)
    clock.now += 1000
    with Store.open(store_url, clock=clock) as other:
        other.claim("recall", "elsewhere:12")
        before = (other.trials("recall"), other.events("recall"), other.study("recall"))
        for write in (
            lambda: store.add_trial("recall", candidate(1), sampler="random", seed=1),
            lambda: store.set_state("recall", 0, TrialState.RUNNING),
            lambda: store.record("recall", report()),
            lambda: store.add_event("recall", Event(kind="note")),
            lambda: store.heartbeat("recall", 5.0),
        ):
            with pytest.raises(StoreUnavailable, match="now run by elsewhere:12, no longer by"):
                write()
        store.release("recall")
        assert (other.trials("recall"), other.events("recall"), other.study("recall")) == before


def test_a_resumed_study_keeps_its_new_settings(store: Store, study: StudyRecord) -> None:
    store.renew(study.name, '{"budget": {"trials": 40}}')
    found = store.study(study.name)
    assert found.settings_json == '{"budget": {"trials": 40}}'
    assert (found.seed, found.space_json) == (study.seed, study.space_json)
