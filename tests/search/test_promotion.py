"""Asynchronous halving that pauses: who waits, who is let go on, and that recorded scores alone decide it."""

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hybridsearch.objectives import Direction, Score
from hybridsearch.search.history import Entry, History, Observation
from hybridsearch.search.rungs import Ladder
from hybridsearch.search.scheduler import Action, decide, left_behind, promotion
from hybridsearch.settings import TieRule
from hybridsearch.trial import Fidelity, TrialState

MIXED: tuple[Direction, Direction] = ("minimize", "maximize")  # answer loss, tokens/s


def ladder(reduction: float = 2.0, warmup_steps: float = 0.0, ties: TieRule = "crowding") -> Ladder:
    fidelities = tuple(Fidelity(rung=rung, steps=steps) for rung, steps in enumerate((100, 200, 400)))
    return Ladder(fidelities=fidelities, reduction=reduction, warmup_steps=warmup_steps, stopping="promote", ties=ties)


def scored(loss: float, speed: float, violation: float = 0.0) -> Score:
    return Score(values=(loss, speed), directions=MIXED, violation=violation)


def entry(trial: int, loss: float, speed: float, violation: float = 0.0, control: bool = False) -> Entry:
    return Entry(trial=trial, score=scored(loss, speed, violation), control=control)


def waiting(trial: int, *scores: Score, state: TrialState = TrialState.PAUSED) -> Observation:
    return Observation(
        trial=trial,
        hash=f"{trial:064x}",
        architecture="{}",
        state=state,
        rung_scores=dict(enumerate(scores)),
        sampler="random",
    )


def test_the_first_arrival_waits_and_the_better_of_two_goes_on() -> None:
    first = decide([], entry(0, 9, 1), 0, ladder())
    assert first.action is Action.PAUSE
    assert first.reason == "rung 0: rank 1 of 1 front, position 1 of 1, top 0 go on"
    assert decide([entry(0, 9, 1)], entry(1, 8, 2), 0, ladder()).action is Action.CONTINUE
    assert decide([entry(0, 9, 1)], entry(1, 10, 0.5), 0, ladder()).action is Action.PAUSE


def test_controls_and_warm_up_and_the_last_rung_are_as_ever() -> None:
    crowd = [entry(0, 1, 9), entry(1, 2, 8)]
    assert decide(crowd, entry(2, 9, 1, control=True), 0, ladder()).action is Action.CONTINUE
    assert decide(crowd, entry(2, 9, 1), 0, ladder(warmup_steps=100)).action is Action.CONTINUE
    assert decide(crowd, entry(2, 9, 1), 1, ladder(warmup_steps=100)).action is Action.PAUSE
    assert decide(crowd, entry(2, 9, 1), 2, ladder()).action is Action.FINISH


def test_a_later_arrival_lets_a_waiting_trial_go_on() -> None:
    history = History([waiting(0, scored(1, 9))])
    assert promotion(history, ladder(), {0}) is None
    history.record(waiting(1, scored(2, 8)))
    found = promotion(history, ladder(), {0, 1})
    assert found is not None
    trial, decision = found
    assert (trial, decision.action, decision.rung, decision.rank) == (0, Action.PROMOTE, 0, 1)
    assert decision.reason == "rung 0: rank 1 of 2 fronts, position 1 of 2, top 1 goes on"


def test_who_was_promoted_takes_its_place_among_the_share() -> None:
    history = History([waiting(n, scored(1 + n, 9 - n)) for n in range(3)])
    history.record(waiting(0, scored(1, 9), state=TrialState.RUNNING))
    assert promotion(history, ladder(), {1, 2}) is None  # floor(3 / 2) = 1, and that one is on its way
    history.record(waiting(3, scored(9, 1)))
    found = promotion(history, ladder(), {1, 2, 3})
    assert found is not None and found[0] == 1


def test_the_highest_rung_is_served_first() -> None:
    high = [waiting(n, scored(5, 5), scored(3 + n, 3 - n)) for n in range(2)]
    low = [waiting(n, scored(n, 10 - n)) for n in (2, 3)]
    found = promotion(History([*high, *low]), ladder(), {0, 1, 2, 3})
    assert found is not None and (found[0], found[1].rung) == (0, 1)


def test_whoever_breaks_a_constraint_waits_behind_all_others() -> None:
    crowd = [waiting(0, scored(0.1, 99, violation=0.2)), waiting(1, scored(8, 2)), waiting(2, scored(9, 1))]
    found = promotion(History(crowd), ladder(reduction=3.0), {0, 1, 2})
    assert found is not None and found[0] == 1


def test_a_failed_trial_sets_no_standard() -> None:
    better = waiting(0, scored(1, 9), state=TrialState.FAILED)
    assert promotion(History([better, waiting(1, scored(2, 8))]), ladder(), {1}) is None
    found = promotion(History([better, waiting(1, scored(2, 8)), waiting(2, scored(3, 7))]), ladder(), {1, 2})
    assert found is not None and found[0] == 1


FRONT = [(1.0 + x, 1.0 + x) for x in (0.0, 0.1, 6.0, 8.0, 10.0)]
"""The second has a wide gap on one side, and lies close to the first."""


def test_the_tie_rule_decides_who_of_one_front_goes_on() -> None:
    history = History([waiting(n, scored(*point)) for n, point in enumerate(FRONT)])

    def order(ties: TieRule) -> list[int]:
        left = set(range(len(FRONT)))
        found = []
        while (promoted := promotion(history, ladder(1.0, ties=ties), left)) is not None:
            found.append(promoted[0])
            left.discard(promoted[0])
        return found

    assert order("epsilon_net") == [0, 4, 2, 3, 1]
    assert order("crowding") == [0, 4, 2, 1, 3]


def test_the_end_of_the_search_says_why_a_trial_was_left_behind() -> None:
    history = History([waiting(n, scored(1 + n, 9 - n)) for n in range(4)])
    decision = left_behind(history, 3, ladder())
    assert (decision.action, decision.position) == (Action.STOP, 4)
    assert decision.reason == "rung 0: rank 4 of 4 fronts, position 4 of 4, top 2 go on, search is over"


POINTS = st.lists(
    st.tuples(st.integers(0, 5).map(float), st.integers(0, 5).map(float), st.sampled_from([0.0, 0.0, 1.0])),
    min_size=1,
    max_size=12,
)


@given(POINTS, st.sampled_from([1.5, 2.0, 3.0]), st.sampled_from(["crowding", "epsilon_net"]), st.randoms())
@pytest.mark.parametrize("at_once", [True, False])
def test_exactly_the_share_is_let_go_on_whoever_arrives_first(
    at_once: bool, crowd: list[tuple[float, float, float]], reduction: float, ties: TieRule, rng: random.Random
) -> None:
    """All wait at one rung; whether promotions come one by one or the store is read in another order, the same go."""
    rules = ladder(reduction, ties=ties)
    paused = [waiting(n, scored(*values)) for n, values in enumerate(crowd)]
    history = History(paused if at_once else rng.sample(paused, len(paused)))
    left, gone = set(range(len(crowd))), []
    while (found := promotion(history, rules, left)) is not None:
        gone.append(found[0])
        left.discard(found[0])
        history.record(waiting(found[0], history.of(found[0]).rung_scores[0], state=TrialState.RUNNING))
    assert len(gone) == int(len(crowd) / reduction)
    fresh = History(reversed(paused))
    places = [decide(fresh.entries(0), entry(n, *crowd[n]), 0, rules).position for n in gone]
    assert places == list(range(1, len(gone) + 1))
