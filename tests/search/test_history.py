"""What a history holds back: scores of trials that did not finish, and the order of arrival."""

import random

import pytest

from hybridsearch.errors import InvalidSetting
from hybridsearch.objectives import Score
from hybridsearch.search.history import Entry, History, Observation
from hybridsearch.trial import TrialState


def score(recall: float, speed: float, violation: float = 0.0) -> Score:
    return Score(values=(recall, speed), directions=("maximize", "maximize"), violation=violation)


def seen(
    trial: int,
    state: TrialState,
    final: Score | None = None,
    rungs: dict[int, Score] | None = None,
    control: str | None = None,
) -> Observation:
    return Observation(
        trial=trial, hash=f"{trial:064x}", architecture="{}", state=state, score=final, rung_scores=rungs or {},
        sampler="random", control=control,
    )  # fmt: skip


def finished(trial: int, recall: float, speed: float, violation: float = 0.0) -> Observation:
    return seen(trial, TrialState.FINISHED, score(recall, speed, violation))


@pytest.mark.parametrize("state", [s for s in TrialState if s is not TrialState.FINISHED])
def test_only_a_finished_trial_can_carry_a_final_score(state: TrialState) -> None:
    with pytest.raises(InvalidSetting, match=f"trial 3 is {state} with a final score"):
        seen(3, state, score(1.0, 1e9))
    with pytest.raises(InvalidSetting, match="with no final score"):
        seen(3, TrialState.FINISHED)


def test_every_trial_is_in_exactly_one_group() -> None:
    states = list(TrialState)
    history = History(seen(n, s, score(0, 0) if s is TrialState.FINISHED else None) for n, s in enumerate(states))
    groups = [history.finished, history.stopped, history.failed, history.running]
    assert sorted(o.trial for group in groups for o in group) == list(range(len(states)))
    assert {o.state for o in history.running} == {TrialState.WAITING, TrialState.RUNNING, TrialState.PAUSED}
    assert {o.state for o in history.failed} == {TrialState.FAILED, TrialState.SCREENED}


def test_trials_stand_by_number_however_late_they_arrive() -> None:
    history = History()
    for number in (5, 0, 3):
        history.record(seen(number, TrialState.RUNNING))
    assert [o.trial for o in history.observations] == [0, 3, 5]
    history.record(finished(3, 0.5, 10))
    assert [o.trial for o in history.running] == [0, 5]
    assert [o.trial for o in history.finished] == [3]
    assert len(history) == len(history.hashes) == 3


def test_a_number_cannot_change_its_architecture() -> None:
    history = History([seen(0, TrialState.RUNNING)])
    other = Observation(trial=0, hash="f" * 64, architecture="{}", state=TrialState.RUNNING, sampler="random")
    with pytest.raises(InvalidSetting, match="trial 0 is 00000000 already, found ffffffff"):
        history.record(other)


def test_the_best_are_ranked_with_constraints_first_and_renewed_with_every_result() -> None:
    history = History([finished(0, 0.9, 10), finished(1, 0.1, 90), finished(2, 0.1, 10), finished(3, 1.0, 99, 0.5)])
    assert [o.trial for o in history.best(4)] == [0, 1, 2, 3]
    assert [o.trial for o in history.best(2)] == [0, 1]
    history.record(finished(4, 0.95, 95))
    assert [o.trial for o in history.best(2)] == [4, 0]
    history.record(seen(4, TrialState.FAILED))
    assert [o.trial for o in history.best(1)] == [0]


def test_the_best_do_not_depend_on_the_order_of_arrival() -> None:
    rng = random.Random(5)
    observations = [finished(n, rng.random(), rng.random()) for n in range(40)]
    shuffled = History(rng.sample(observations, 40))
    assert [o.trial for o in shuffled.best(12)] == [o.trial for o in History(observations).best(12)]


def test_a_rung_remembers_stopped_trials_and_controls_but_no_failed_ones() -> None:
    rungs = {0: score(0.1, 5), 1: score(0.2, 5)}
    history = History(
        [
            seen(0, TrialState.STOPPED, rungs={0: rungs[0]}),
            seen(1, TrialState.RUNNING, rungs=rungs, control="full"),
            seen(2, TrialState.FAILED, rungs=rungs),
            seen(3, TrialState.WAITING),
        ]
    )
    assert history.entries(0) == [Entry(trial=0, score=rungs[0]), Entry(trial=1, score=rungs[0], control=True)]
    assert [e.trial for e in history.entries(1)] == [1]
