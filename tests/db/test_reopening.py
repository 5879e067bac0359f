"""Trials that waited at a rung until the end of a search, once it gets a larger budget; on every engine."""

from collections.abc import Callable

from hybridsearch.db.store import Event, Store, StudyRecord
from hybridsearch.trial import Candidate, TrialState

PAUSED, RUNNING, STOPPED = TrialState.PAUSED, TrialState.RUNNING, TrialState.STOPPED


def test_those_that_waited_at_a_rung_wait_there_again_and_no_others(
    store: Store, study: StudyRecord, candidate: Callable[..., Candidate], drive: Callable[[int, TrialState], None]
) -> None:
    for number in range(4):
        store.add_trial("recall", candidate(number), sampler="random", seed=1)
    at_rung = Event(kind="paused", rung=0)
    drive(0, RUNNING)
    store.set_state("recall", 0, PAUSED, event=at_rung)
    store.set_state("recall", 0, STOPPED, event=Event(kind="stopped", rung=0))
    drive(1, STOPPED)  # a rule stopped it at once
    drive(2, PAUSED)  # a drain put it down
    store.set_state("recall", 2, STOPPED)
    drive(3, RUNNING)
    store.set_state("recall", 3, PAUSED, event=at_rung)
    before = {trial.number: trial for trial in store.trials("recall")}

    assert store.renew("recall", "{}") == []
    assert store.renew("recall", "{}", reopen=True) == [0]
    after = {trial.number: trial for trial in store.trials("recall")}
    assert (after[0].state, after[0].ended, after[0].reports) == (PAUSED, None, before[0].reports)
    assert all(after[number] == before[number] for number in (1, 2, 3))
    assert store.waiting_at_rung("recall") == {0, 3}
    assert store.events("recall")[-1].rung == 0
    assert store.renew("recall", "{}", reopen=True) == []
