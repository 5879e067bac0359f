"""What is read without whole trials, on every engine."""

from collections.abc import Callable

import pytest

from hybridsearch.db.store import Event, Store, StudyRecord, Tally
from hybridsearch.errors import FailureReason
from hybridsearch.trial import Candidate, Report, TrialState

MakeCandidate = Callable[..., Candidate]
MakeReport = Callable[..., Report]


@pytest.fixture
def busy(store: Store, study: StudyRecord, candidate: MakeCandidate, report: MakeReport) -> Store:
    """Trials 0 (a control) and 2 finished after two rungs, 1 stopped, 3 failed, 4 runs with a report."""
    for number in range(5):
        control = "full" if number == 0 else None
        store.add_trial("recall", candidate(number), sampler="random", seed=1, control=control)
        store.set_state("recall", number, TrialState.RUNNING)
    for number, ended in ((2, TrialState.FINISHED), (0, TrialState.FINISHED), (1, TrialState.STOPPED), (4, None)):
        store.record("recall", report(number, 0, recall=0.1), state=None if number in (0, 2) else ended)
        if ended is TrialState.FINISHED:
            store.record("recall", report(number, 1, recall=1 / 3 + number), state=ended)
    store.set_state("recall", 3, TrialState.FAILED, reason=FailureReason.TIMED_OUT, message="slow")
    return store


def test_finals_are_finished_trials_with_the_latest_of_the_named_metrics(busy: Store) -> None:
    finals = busy.finals("recall", ["recall", "no such metric", "recall/64x8"])
    assert [final.number for final in finals] == [0, 2]
    whole = {trial.number: trial for trial in busy.trials("recall")}
    for final in finals:
        assert final.metrics["recall"] == pytest.approx(1 / 3 + final.number, rel=1e-15)
        assert "no such metric" not in final.metrics
        assert (final.created, final.ended) == (whole[final.number].created, whole[final.number].ended)


def test_the_tally_tells_controls_and_reasons_apart(busy: Store) -> None:
    assert set(busy.tally("recall")) == {
        Tally(state=TrialState.FINISHED, reason=None, control=True, count=1),
        Tally(state=TrialState.FINISHED, reason=None, control=False, count=1),
        Tally(state=TrialState.STOPPED, reason=None, control=False, count=1),
        Tally(state=TrialState.FAILED, reason=FailureReason.TIMED_OUT, control=False, count=1),
        Tally(state=TrialState.RUNNING, reason=None, control=False, count=1),
    }


def test_some_trials_are_as_among_all(busy: Store) -> None:
    everything = busy.trials("recall")
    assert busy.some_trials("recall", [4, 0, 99]) == [everything[0], everything[4]]
    assert busy.some_trials("recall", []) == []


def test_only_a_pause_at_a_rung_waits_there(
    store: Store, study: StudyRecord, candidate: MakeCandidate, report: MakeReport
) -> None:
    for number in range(4):
        store.add_trial("recall", candidate(number), sampler="random", seed=1)
        store.set_state("recall", number, TrialState.RUNNING)
        event = Event(kind="paused", message="rung 0: it waits", rung=0, rank=1)
        store.record("recall", report(number), state=TrialState.PAUSED, event=event)
    assert store.waiting_at_rung("recall") == {0, 1, 2, 3}
    store.set_state("recall", 1, TrialState.WAITING, event=Event(kind="promote", rung=0))
    store.set_state("recall", 2, TrialState.RUNNING)
    store.set_state("recall", 2, TrialState.PAUSED, message="drained on its way to rung 1")
    store.set_state("recall", 3, TrialState.STOPPED)
    assert store.waiting_at_rung("recall") == {0}
