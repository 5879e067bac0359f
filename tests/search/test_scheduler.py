"""Who goes on from a rung: the rule by hand, by property, and its exactness after a resume."""

import math
import random
from collections.abc import Sequence
from dataclasses import replace
from typing import get_args

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hybridsearch.errors import InvalidSetting
from hybridsearch.objectives import Direction, Score
from hybridsearch.pareto.layers import Layers, Place
from hybridsearch.search.history import Entry
from hybridsearch.search.results import Results
from hybridsearch.search.rungs import Ladder
from hybridsearch.search.scheduler import Action, Decision, decide
from hybridsearch.settings import Stopping
from hybridsearch.trial import Fidelity

MIXED: tuple[Direction, Direction] = ("minimize", "maximize")  # answer loss, tokens/s


def entry(trial: int, loss: float, speed: float, violation: float = 0.0, control: bool = False) -> Entry:
    return Entry(trial=trial, score=Score(values=(loss, speed), directions=MIXED, violation=violation), control=control)


def ladder(reduction: float = 2.0, warmup_steps: float = 0.0, stopping: Stopping = "stop") -> Ladder:
    fidelities = tuple(Fidelity(rung=rung, steps=steps) for rung, steps in enumerate((100, 200, 400)))
    return Ladder(fidelities=fidelities, reduction=reduction, warmup_steps=warmup_steps, stopping=stopping)


CROWD = [
    entry(n, loss, speed) for n, (loss, speed) in enumerate([(1, 10), (2, 20), (3, 30), (2, 10), (3, 20), (4, 30)])
]


def test_the_reason_is_a_sentence_with_the_numbers_behind_it() -> None:
    decision = decide([*CROWD, entry(6, 5, 10), entry(7, 6, 5)], entry(8, 5, 20), 1, ladder())
    assert decision == Decision(
        action=Action.STOP, rung=1, rank=3, position=7, of=9,
        reason="rung 1: rank 3 of 5 fronts, position 7 of 9, top 5 go on",
    )  # fmt: skip


def test_the_first_arrival_goes_on_and_the_second_must_beat_it() -> None:
    first = decide([], entry(0, 9, 1), 0, ladder())
    assert first.action is Action.CONTINUE
    assert first.reason == "rung 0: rank 1 of 1 front, position 1 of 1, top 1 goes on"
    assert decide([entry(0, 9, 1)], entry(1, 8, 2), 0, ladder()).action is Action.CONTINUE
    assert decide([entry(0, 9, 1)], entry(1, 10, 0.5), 0, ladder()).action is Action.STOP


def test_more_speed_and_less_loss_are_both_better() -> None:
    assert decide(CROWD, entry(9, 0.5, 40), 0, ladder()).rank == 1
    assert decide(CROWD, entry(9, 0.5, 5), 0, ladder()).rank == 1
    assert decide(CROWD, entry(9, 5, 40), 0, ladder()).rank == 1
    assert decide(CROWD, entry(9, 5, 5), 0, ladder()).rank == 3


def test_inside_a_front_the_ends_and_the_roomy_go_before_the_crowded() -> None:
    front = [entry(0, 1, 10), entry(1, 9, 90), entry(2, 2.0, 20), entry(3, 2.1, 21)]
    assert decide(front, entry(4, 2.05, 20.5), 0, ladder()).position == 5
    assert decide(front, entry(4, 5, 50), 0, ladder()).position == 3


def test_a_broken_constraint_comes_last_however_good_the_scores() -> None:
    decision = decide(CROWD, entry(9, 0.1, 99, violation=0.2), 0, ladder())
    assert (decision.action, decision.position) == (Action.STOP, 7)
    worse = entry(8, 0.1, 99, violation=0.5)
    assert decide([*CROWD, worse], entry(9, 9, 1, violation=0.2), 0, ladder()).position == 7


def test_a_control_is_never_stopped_but_counts_among_the_results() -> None:
    worst = decide(CROWD, entry(9, 9, 1, control=True), 1, ladder())
    assert (worst.action, worst.position, worst.of) == (Action.CONTINUE, 7, 7)
    assert "a control always goes on" in worst.reason
    assert decide([entry(0, 1, 10, control=True)], entry(1, 2, 9), 0, ladder()).action is Action.STOP


def test_nobody_is_stopped_inside_the_warm_up() -> None:
    loser = entry(9, 9, 1)
    assert decide(CROWD, loser, 0, ladder(warmup_steps=100)).action is Action.CONTINUE
    assert "first 100 steps (warm-up)" in decide(CROWD, loser, 0, ladder(warmup_steps=100)).reason
    assert decide(CROWD, loser, 0, ladder(warmup_steps=99)).action is Action.STOP
    assert decide(CROWD, loser, 1, ladder(warmup_steps=100)).action is Action.STOP


def test_the_last_rung_finishes_everybody() -> None:
    for stopping in get_args(Stopping):
        decision = decide(CROWD, entry(9, 9, 1), 2, ladder(stopping=stopping))
        assert decision.action is Action.FINISH
        assert decision.reason.endswith("the last rung")


def test_without_early_stopping_everybody_climbs() -> None:
    decision = decide(CROWD, entry(9, 9, 1), 1, ladder(stopping="off"))
    assert decision.action is Action.CONTINUE
    assert "early stopping is off" in decision.reason


def test_a_rung_that_is_not_on_the_ladder_is_refused() -> None:
    with pytest.raises(InvalidSetting, match="rung 3 is not on the ladder; it has rungs 0 to 2"):
        decide([], entry(0, 1, 1), 3, ladder())


def test_equals_are_told_apart_by_their_number() -> None:
    assert [decide([entry(1 - n, 1, 1)], entry(n, 1, 1), 0, ladder()).position for n in (0, 1)] == [1, 2]


CROWDS = st.lists(
    st.tuples(st.integers(0, 5).map(float), st.integers(0, 5).map(float), st.sampled_from([0.0, 0.0, 1.0])),
    min_size=1,
    max_size=12,
)


@given(CROWDS, st.sampled_from([1.5, 2.0, 3.0, 4.0]), st.randoms(use_true_random=False))
def test_of_a_full_rung_exactly_the_share_goes_on(
    crowd: list[tuple[float, float, float]], reduction: float, rng: random.Random
) -> None:
    entries = [entry(n, *values) for n, values in enumerate(crowd)]
    shuffled = rng.sample(entries, len(entries))
    decisions = [decide(shuffled, own, 0, ladder(reduction)) for own in entries]
    assert sorted(d.position for d in decisions) == list(range(1, len(crowd) + 1))
    kept = [d for d in decisions if d.action is Action.CONTINUE]
    assert len(kept) == math.ceil(len(crowd) / reduction)
    assert max(d.rank for d in kept) <= min((d.rank for d in decisions if d.action is Action.STOP), default=99)


def test_asking_again_after_a_crash_gives_the_same_answer() -> None:
    # The report may have been recorded already when the controller died before it could act on the answer.
    own = entry(7, 2.5, 21)
    assert decide(CROWD, own, 1, ladder()) == decide([own, *reversed(CROWD)], own, 1, ladder())


def test_seeds_that_disagree_protect_a_trial_and_the_margin_says_how_much() -> None:
    def unsure(trial: int, loss: float, speed: float, error: float) -> Entry:
        score = Score(values=(loss, speed), directions=MIXED, errors=(error, 0.0))
        return Entry(trial=trial, score=score)

    crowd = [unsure(0, 1.0, 10, 0.3), unsure(1, 2.0, 9, 0.3)]
    own = unsure(2, 1.2, 8, 0.3)
    assert decide(crowd, own, 0, ladder()).rank == 1  # 0.2 is less than the 0.42 of both together
    assert decide(crowd, own, 0, replace(ladder(), margin=0.4)).rank == 2
    assert decide(crowd, unsure(2, 1.5, 8, 0.3), 0, ladder()).rank == 2
    assert decide(crowd, unsure(2, 1.2, 8, 0.0), 0, replace(ladder(), margin=0.0)).rank == 2


def test_results_are_ranked_together_once_and_then_one_by_one(monkeypatch: pytest.MonkeyPatch) -> None:
    ranked: list[int] = []
    whole = Layers.of

    def counted(places: Sequence[Place]) -> Layers:
        ranked.append(len(places))
        return whole(places)

    monkeypatch.setattr(Layers, "of", counted)
    results = Results(CROWD)
    for number in range(6, 12):
        own = entry(number, number % 4, 10 * (number % 3))
        decide(results, own, 2, ladder())
        results.record(own)
    assert ranked == [len(CROWD)]
