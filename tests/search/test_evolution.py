"""Who breeds, and what becomes of it."""

import random
import statistics
from collections.abc import Callable
from dataclasses import replace

from hybridsearch.objectives import OBJECTIVES
from hybridsearch.search import evolution
from hybridsearch.search.history import History, Observation
from hybridsearch.search.samplers import Proposal, Request
from hybridsearch.search_spaces.controls import controls
from hybridsearch.search_spaces.space import Space
from hybridsearch.spec.architecture import Architecture, Layer
from hybridsearch.spec.mixers import GatedDelta

Drawn = Callable[[int], History]
AXES = (OBJECTIVES["recall"], OBJECTIVES["decode_tokens_per_second"])


def ask(history: History, space: Space, number: int, count: int) -> list[Proposal]:
    return evolution.evolution(history, Request(space=space, objectives=AXES, seed=1, number=number, count=count))


def test_it_draws_at_random_until_there_is_enough_to_compare(layers: Space, random_history: Drawn) -> None:
    few = ask(random_history(evolution.ENOUGH - 1), layers, 100, 10)
    assert [proposal.parents for proposal in few] == [()] * 10
    enough = ask(random_history(evolution.ENOUGH), layers, 100, 10)
    assert sum(bool(proposal.parents) for proposal in enough) >= 6


def test_the_better_half_breeds_the_best_most(layers: Space, random_history: Drawn) -> None:
    history = random_history(30)
    better = {o.trial for o in sorted(history.finished, key=lambda o: -(o.score.values[0] if o.score else 0))[:15]}
    worst = {o.trial for o in history.finished if o.score is not None and o.score.values[0] == 0.0} - better
    parents = [parent for proposal in ask(history, layers, 30, 60) for parent in proposal.parents]
    assert worst and not worst & set(parents)
    assert len(set(parents)) >= 5
    assert {len(p.parents) for p in ask(history, layers, 30, 60)} == {0, 1, 2}


def test_a_broken_constraint_keeps_the_best_from_breeding(layers: Space, random_history: Drawn) -> None:
    history = random_history(20)
    best = max(history.finished, key=lambda o: o.score.values[0] if o.score else 0.0)
    assert best.score is not None
    score = replace(best.score, violation=0.1)
    history.record(replace(best, score=score, rung_scores={0: score}))
    assert best.trial not in {parent for p in ask(history, layers, 20, 40) for parent in p.parents}


def test_children_resemble_their_parents(
    layers: Space, random_history: Drawn, gated_share: Callable[[Architecture], float]
) -> None:
    history = random_history(60)
    children = [p.architecture for p in ask(history, layers, 60, 40) if p.parents]
    drawn = statistics.mean(gated_share(Architecture.model_validate_json(o.architecture)) for o in history.finished)
    assert statistics.mean(map(gated_share, children)) > 1.6 * drawn


def test_a_control_breeds_only_if_the_menu_can_make_it(
    layers: Space, random_history: Drawn, finished: Callable[..., Observation]
) -> None:
    strange = Layer(mixer=GatedDelta(heads=1, head_dim=6), feed_forward=64)  # no head_dim of the menu
    named = {"known": controls(layers)["linear"], "strange": Architecture(width=128, layers=(strange,) * 4)}
    history = random_history(12)
    for number, (name, architecture) in enumerate(named.items(), start=12):
        history.record(replace(finished(number, architecture, 2.0), control=name))
    parents = {parent for p in ask(history, layers, 14, 40) for parent in p.parents}
    assert 12 in parents
    assert 13 not in parents


def test_the_tournament_prefers_the_front_of_the_line(random_history: Drawn) -> None:
    population = list(random_history(10).finished)
    rng = random.Random(0)
    places = [population.index(evolution._tournament(population, rng)) for _ in range(400)]
    assert statistics.mean(places) < 3.5  # 4.5 without preference
    assert set(places) == set(range(10))
