"""What every sampler promises. A new one is tested here by its line in `SAMPLERS`."""

import random
from collections.abc import Callable
from dataclasses import replace
from importlib.util import find_spec

import pytest

from hybridsearch.errors import Infeasible
from hybridsearch.objectives import OBJECTIVES, Score
from hybridsearch.search.history import History, Observation
from hybridsearch.search.samplers import SAMPLERS, Proposal, Request
from hybridsearch.search_spaces import catalog, sampling
from hybridsearch.search_spaces.controls import controls
from hybridsearch.search_spaces.space import Space
from hybridsearch.settings import SearchSettings
from hybridsearch.spec.canonical import content_hash
from hybridsearch.trial import TrialState

Observe = Callable[..., Observation]
AXES = (OBJECTIVES["recall"], OBJECTIVES["decode_tokens_per_second"])
NINE = {
    "width": 16,
    "depth": [1, 2],
    "mixers": {
        "full": {"head_dim": 8},
        "gated_delta": {"heads": 2, "head_dim": 4},
        "sliding": {"head_dim": 8, "window": 8},
    },
    "feed_forward": {"ratio": 2},
}  # 3 of one layer, 9 of two: 12 in all

MULTI_FIDELITY = ("cluster",)
"""Samplers that learn what a lower rung's value says about the final one, instead of leaving it out."""

EXTRAS = {"qlognehvi": "botorch"}


def marked(name: str) -> object:
    """A sampler that needs an extra is tested where it is installed."""
    missing = name in EXTRAS and find_spec(EXTRAS[name]) is None
    return pytest.param(name, marks=pytest.mark.skipif(missing, reason=f"{EXTRAS.get(name)} is not installed"))


pytestmark = pytest.mark.parametrize("name", [marked(name) for name in SAMPLERS])


def ask(name: str, history: History, space: Space, number: int, count: int = 1, seed: int = 5) -> list[Proposal]:
    return SAMPLERS[name](history, Request(space=space, objectives=AXES, seed=seed, number=number, count=count))


def hashes(proposals: list[Proposal]) -> list[str]:
    return [content_hash(proposal.architecture) for proposal in proposals]


def test_settings_can_name_it(name: str) -> None:
    assert SearchSettings(study="s", space="tiny", sampler=name).sampler == name


def test_proposals_lie_in_the_space_are_new_and_say_where_they_come_from(
    name: str, tiny: Space, crowd: History
) -> None:
    proposals = ask(name, crowd, tiny, 40, count=8)
    assert [tiny.violations(proposal.architecture) for proposal in proposals] == [[]] * 8
    assert len(set(hashes(proposals))) == 8
    assert not set(hashes(proposals)) & crowd.hashes
    ended = {o.trial for o in (*crowd.finished, *crowd.stopped)}
    assert all(p.sampler == name and set(p.parents) <= ended for p in proposals)


def test_the_first_proposals_need_no_history(name: str, tiny: Space) -> None:
    assert len(set(hashes(ask(name, History(), tiny, 0, count=5)))) == 5


def test_the_same_question_has_the_same_answer(name: str, tiny: Space, crowd: History) -> None:
    again = History(random.Random(1).sample(crowd.observations, 40))  # as read from a store, in any order
    assert ask(name, crowd, tiny, 40, count=3) == ask(name, again, tiny, 40, count=3)


def test_seed_and_trial_number_change_the_answer(name: str, tiny: Space, crowd: History) -> None:
    draws = [hashes(ask(name, crowd, tiny, number, seed=seed)) for seed, number in ((5, 40), (6, 40), (5, 41), (5, 42))]
    assert len({draw[0] for draw in draws}) >= 3  # two may meet by chance, not more


def test_asking_for_three_is_asking_three_times(name: str, tiny: Space, crowd: History, observe: Observe) -> None:
    history = History(crowd.observations)
    for number in (40, 41, 42):
        (proposal,) = ask(name, history, tiny, number)
        history.record(observe(number, proposal.architecture, state=TrialState.RUNNING))
    assert [o.hash for o in history.observations[-3:]] == hashes(ask(name, crowd, tiny, 40, count=3))
    assert len(crowd) == 40


def test_it_does_not_change_the_history(name: str, tiny: Space, crowd: History) -> None:
    before = crowd.observations
    ask(name, crowd, tiny, 40, count=2)
    assert crowd.observations == before


def test_a_small_space_is_exhausted_without_repeats_and_then_said_so(name: str, observe: Observe) -> None:
    space = catalog.load(NINE)
    history = History()
    rng = random.Random(0)
    while proposals := ask(name, history, space, len(history)):
        history.record(observe(len(history), proposals[0].architecture, (rng.random(), rng.random())))
    assert history.hashes == {content_hash(a) for a in space.listing or ()}
    assert len(history) == 12


def test_fewer_are_given_when_fewer_are_left(name: str, observe: Observe) -> None:
    space = catalog.load(NINE)
    history = History(observe(n, a) for n, a in enumerate((space.listing or ())[:9]))
    assert len(ask(name, history, space, 9, count=8)) == 3


def test_a_space_without_architectures_says_so(name: str) -> None:
    space = catalog.load({**NINE, "constraints": {"parameters": {"maximum": 10}}})
    with pytest.raises(Infeasible):
        ask(name, History(), space, 0)


def test_controls_outside_the_space_do_no_harm(name: str, observe: Observe) -> None:
    space = catalog.load({**NINE, "depth": [4, 5], "reference": {"depth": 3}})
    history = History(observe(n, a, (1.0, 900.0), control=c) for n, (c, a) in enumerate(controls(space).items()))
    for number in range(len(history), 16):
        (proposal,) = ask(name, history, space, number)
        assert space.violations(proposal.architecture) == []
        history.record(observe(number, proposal.architecture, (0.1, 10.0 + number)))


STUNNING = Score(values=(1.0, 1e9), directions=("maximize", "maximize"))  # a broken architecture is done at once


@pytest.mark.parametrize("state", [TrialState.FAILED, TrialState.RUNNING])
def test_scores_of_trials_that_did_not_end_well_are_never_looked_at(
    name: str, state: TrialState, tiny: Space, crowd: History
) -> None:
    def answer(rung_scores: dict[int, Score]) -> list[Proposal]:
        changed = [replace(o, rung_scores=rung_scores) if o.state is state else o for o in crowd.observations]
        return ask(name, History(changed), tiny, 40, count=4)

    assert answer({0: STUNNING, 1: STUNNING}) == answer({})


def test_a_stopped_trial_is_not_compared_with_finished_ones(name: str, tiny: Space, crowd: History) -> None:
    if name in MULTI_FIDELITY:
        pytest.skip("it learns from lower rungs; the next test holds for it")

    def answer(score: Score) -> list[Proposal]:
        stopped = [
            replace(o, rung_scores={0: score}) if o.state is TrialState.STOPPED else o for o in crowd.observations
        ]
        return ask(name, History(stopped), tiny, 40, count=4)

    assert len(crowd.finished) >= 12  # enough to learn from full training alone
    assert answer(STUNNING) == answer(Score(values=(0.0, 1.0), directions=("maximize", "maximize")))


@pytest.mark.parametrize("state", [TrialState.STOPPED, TrialState.PAUSED])
def test_what_a_rung_says_is_never_told_as_a_final_value(
    name: str, state: TrialState, tiny: Space, observe: Observe
) -> None:
    """In other units (another loss, another offset) the same rung scores must lead to the same proposals.

    A sampler that took one of them for a final value would see the best trial of all, or the worst.
    """

    def answer(factor: float, offset: float) -> list[Proposal]:
        rng = random.Random(7)
        history = History()
        while len(history) < 40:
            architecture = sampling.sample(tiny, rng)
            if content_hash(architecture) in history.hashes:
                continue
            final = (rng.random(), rng.uniform(10.0, 1000.0))
            early = (factor * (final[0] + rng.gauss(0.0, 0.1)) + offset, factor * final[1] + offset)
            o = observe(len(history), architecture, final, TrialState.FINISHED if len(history) % 2 else state)
            rung = Score(values=early, directions=("maximize", "maximize"))
            history.record(replace(o, rung_scores={0: rung} if o.score is None else {0: rung, 2: o.score}))
        return ask(name, history, tiny, 40, count=3)

    assert answer(1.0, 0.0) == answer(1000.0, 5000.0) == answer(0.001, -3.0)


def test_three_objectives_are_as_good_as_two(name: str, tiny: Space, crowd: History) -> None:
    def with_cache(o: Observation) -> Observation:
        rungs = {
            rung: replace(
                known, values=(*known.values, float(len(o.architecture))), directions=(*known.directions, "minimize")
            )
            for rung, known in o.rung_scores.items()
        }
        return replace(o, rung_scores=rungs, score=rungs[2] if o.score is not None else None)

    history = History(map(with_cache, crowd.observations))
    request = Request(space=tiny, objectives=(*AXES, OBJECTIVES["cache_bytes"]), seed=5, number=40, count=4)
    proposals = SAMPLERS[name](history, request)
    assert len(set(hashes(proposals)) - history.hashes) == 4
    if name not in ("random", "prior"):  # whose shares of chance may hide it for once
        assert proposals != ask(name, crowd, tiny, 40, count=4)
