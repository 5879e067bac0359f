"""What Optuna is told of a history: everything that counts, nothing that lies, and never too much."""

import statistics
from collections.abc import Callable
from dataclasses import replace

import pytest
from optuna.trial import TrialState as Told

from hybridsearch.objectives import OBJECTIVES, Score
from hybridsearch.search import optuna_samplers
from hybridsearch.search.history import History, Observation
from hybridsearch.search.samplers import SAMPLERS, Proposal, Request
from hybridsearch.search_spaces import encoding
from hybridsearch.search_spaces.space import Space
from hybridsearch.spec.architecture import Architecture
from hybridsearch.spec.canonical import parse
from hybridsearch.trial import TrialState

Drawn = Callable[[int], History]
AXES = (OBJECTIVES["recall"], OBJECTIVES["decode_tokens_per_second"])


def told(history: History, space: Space) -> list[tuple[Told, list[float] | None, dict[str, float]]]:
    cohort = history.cohort(optuna_samplers.ENOUGH)
    assert cohort is not None
    trials = optuna_samplers._told_to_tpe(history, cohort, space)
    return [(t.state, None if t.state is not Told.COMPLETE else list(t.values), t.constraints) for t in trials]


def ended(o: Observation, state: TrialState, violation: float = 0.0) -> Observation:
    if state is TrialState.FINISHED:
        assert o.score is not None
        score = replace(o.score, violation=violation)
        return replace(o, score=score, rung_scores={0: score})
    return replace(o, state=state, score=None, rung_scores={})


def test_tpe_hears_scores_of_the_comparable_and_only_that_others_were_bad_or_run(
    layers: Space, random_history: Drawn
) -> None:
    history = random_history(16)
    fates = (TrialState.FAILED, TrialState.SCREENED, TrialState.RUNNING, TrialState.WAITING)
    for trial, state in enumerate(fates):
        history.record(ended(history.observations[trial], state))
    history.record(ended(history.observations[4], TrialState.FINISHED, violation=0.5))
    heard = told(history, layers)
    assert [state for state, _, _ in heard] == [Told.COMPLETE] * 12 + [Told.PRUNED] * 2 + [Told.RUNNING] * 2
    assert heard[0][2] == {"violation": 0.5}
    values = history.observations[5].score
    assert values is not None
    assert heard[1][1:] == ([-values.values[0], -100.0], {"violation": 0.0})
    assert {constraints["violation"] for _, _, constraints in heard[12:]} == {optuna_samplers.UNFINISHED}


def test_bad_trials_never_fill_the_good_tenth(layers: Space, random_history: Drawn) -> None:
    history = random_history(130)
    for observation in history.observations[10:]:
        history.record(ended(observation, TrialState.FAILED))
    states = [state for state, _, _ in told(history, layers)]
    assert states.count(Told.COMPLETE) == 10
    assert states.count(Told.PRUNED) == 90
    assert len(states) / 10 <= states.count(Told.COMPLETE)


def test_what_tpe_hears_is_bounded_and_keeps_the_best_and_the_latest(layers: Space, random_history: Drawn) -> None:
    history = random_history(400)
    heard = told(history, layers)
    assert len(heard) == optuna_samplers.BEST + optuna_samplers.RECENT
    recalls = sorted(-o.score.minimised[0] for o in history.finished if o.score is not None)
    assert sorted(-values[0] for _, values, _ in heard if values)[-20:] == recalls[-20:]
    latest = history.observations[-1].score
    assert latest is not None
    assert heard[-1][1] == list(latest.minimised)


def test_every_choice_of_the_space_is_one_distribution(layers: Space) -> None:
    distributions = optuna_samplers._distributions(optuna_samplers._Same(layers))
    assert list(distributions) == [parameter.name for parameter in encoding.parameters(layers)]


@pytest.mark.parametrize("name", ["nsga2", "tpe"])
def test_it_learns_which_mixer_is_good(
    name: str, layers: Space, random_history: Drawn, gated_share: Callable[[Architecture], float]
) -> None:
    history = random_history(60)
    drawn = statistics.mean(gated_share(parse(o.architecture)) for o in history.finished)
    proposals: list[Proposal] = SAMPLERS[name](
        history, Request(space=layers, objectives=AXES, seed=2, number=60, count=12)
    )
    assert statistics.mean(gated_share(p.architecture) for p in proposals) > 1.5 * drawn


@pytest.mark.parametrize("name", ["nsga2", "tpe"])
def test_it_draws_at_random_until_there_is_enough_to_compare(name: str, layers: Space, random_history: Drawn) -> None:
    few = random_history(optuna_samplers.ENOUGH - 1)
    request = Request(space=layers, objectives=AXES, seed=2, number=60)
    worst = Score(values=(0.0, 1.0), directions=("maximize", "maximize"))
    level = History(replace(o, score=worst, rung_scores={0: worst}) for o in few.finished)
    assert SAMPLERS[name](few, request) == SAMPLERS[name](level, request)
