"""What a history holds back: scores of trials that did not finish, and the order of arrival."""

import random

import pytest

from hybridsearch.errors import InvalidSetting
from hybridsearch.objectives import Score
from hybridsearch.search.history import JUDGED, Entry, History, Observation
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
    final = score(recall, speed, violation)
    return seen(trial, TrialState.FINISHED, final, rungs={2: final})


def leaders(history: History, count: int) -> list[int]:
    cohort = history.cohort(1)
    assert cohort is not None
    return [o.trial for o in cohort.leaders(count)]


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


def test_the_leaders_are_ranked_with_constraints_first_and_renewed_with_every_result() -> None:
    history = History([finished(0, 0.9, 10), finished(1, 0.1, 90), finished(2, 0.1, 10), finished(3, 1.0, 99, 0.5)])
    assert leaders(history, 4) == [0, 1, 2, 3]
    assert leaders(history, 2) == [0, 1]
    history.record(finished(4, 0.95, 95))
    assert leaders(history, 2) == [4, 0]
    history.record(seen(4, TrialState.FAILED))
    assert leaders(history, 1) == [0]


def test_the_leaders_do_not_depend_on_the_order_of_arrival() -> None:
    rng = random.Random(5)
    observations = [finished(n, rng.random(), rng.random()) for n in range(40)]
    assert leaders(History(rng.sample(observations, 40)), 12) == leaders(History(observations), 12)


def test_trials_are_compared_at_the_highest_rung_that_enough_of_them_reached() -> None:
    low, high = score(0.1, 5), score(0.9, 5)
    history = History(
        [
            *(seen(n, TrialState.STOPPED, rungs={0: low}) for n in range(3)),
            *(seen(n, TrialState.STOPPED, rungs={0: low, 1: high}) for n in range(3, 5)),
            seen(5, TrialState.FINISHED, high, rungs={0: low, 1: low, 2: high}),
            seen(6, TrialState.RUNNING, rungs={0: high, 1: high}),
            seen(7, TrialState.FAILED, rungs={0: high, 1: high}),
        ]
    )
    found = {enough: history.cohort(enough) for enough in (1, 2, 3, 4, 6, 7)}
    assert {enough: c.rung if c else None for enough, c in found.items()} == {1: 2, 2: 1, 3: 1, 4: 0, 6: 0, 7: None}
    middle = found[3]
    assert middle is not None
    assert [o.trial for o in middle.members] == [3, 4, 5]
    assert [o.trial for o in middle.leaders(3)] == [3, 4, 5]
    assert middle.score(history.observations[5]) == low


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


def any_history(rng: random.Random, changes: int) -> tuple[History, dict[int, Observation]]:
    """Trials that come and go between states and rungs, as in no real search."""
    history, known = History(), dict[int, Observation]()
    for _ in range(changes):
        state = rng.choice(list(TrialState))
        reached = rng.randrange(4) if state is not TrialState.FINISHED else 3
        rungs = {rung: score(rng.random(), rng.random()) for rung in range(reached)}
        observation = seen(rng.randrange(30), state, rungs[2] if state is TrialState.FINISHED else None, rungs)
        history.record(observation)
        known[observation.trial] = observation
    return history, known


@pytest.mark.parametrize("seed", range(5))
def test_lists_that_are_kept_are_those_of_a_pass_over_all_trials(seed: int) -> None:
    history, known = any_history(random.Random(seed), 200)
    fresh = History(known.values())
    assert history.observations == tuple(known[number] for number in sorted(known))
    away = (TrialState.WAITING, TrialState.RUNNING)
    unknown = [
        o for o in history.observations if o.state in away or (o.state is TrialState.PAUSED and not o.rung_scores)
    ]
    assert list(history.running) == unknown
    for rung in range(4):
        for count in (0, 1, 3, 50):
            lower = [o for o in history.observations if o.state in JUDGED and 0 <= max(o.rung_scores, default=9) < rung]
            assert history.below(rung, count) == (lower[-count:] if count else [])
            wanted = history.latest(JUDGED, count, lambda o: bool(o.rung_scores) and max(o.rung_scores) < rung)  # noqa: B023
            assert history.below(rung, count) == wanted
    for enough in (1, 4, 9, 30):
        found, same = history.cohort(enough), fresh.cohort(enough)
        assert (found is None) == (same is None)
        if found is not None and same is not None:
            scored = [o for o in history.observations if o.state in JUDGED and found.rung in o.rung_scores]
            assert list(found.members) == list(same.members) == scored
            assert found.values.tolist() == [list(o.rung_scores[found.rung].minimised) for o in scored]
