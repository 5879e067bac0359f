"""The terms of an architecture, and the exact optimum over layers against trying them all."""

import itertools
import random

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from hybridsearch.search.chain import Chain, chain_of, cheapest, plan_of, row_of
from hybridsearch.search_spaces import catalog, sampling
from hybridsearch.search_spaces.controls import controls
from hybridsearch.search_spaces.plan import Plan
from hybridsearch.search_spaces.rules import judge
from hybridsearch.search_spaces.space import Space
from hybridsearch.spec.canonical import canonical_json

SMALL = {
    "width": 16,
    "depth": [2, 3, 4],
    "mixers": {
        "full": {"head_dim": 8},
        "gated_delta": {"heads": 2, "head_dim": [4, 8]},
        "sliding": {"head_dim": 8, "window": 8},
    },
    "layers": {"free": ["full", "gated_delta", "sliding"]},
    "feed_forward": {"width": 0},
}


def named(chain: Chain, plan: Plan) -> dict[str, float]:
    row = chain.row(plan)
    return {name: float(row[index]) for index, name in enumerate(chain.names) if row[index]}


def test_the_terms_of_a_small_stack_by_hand() -> None:
    chain = chain_of(catalog.load(SMALL))
    found = named(chain, Plan(16, ("gated_delta", "full"), {"gated_delta.head_dim": 8}))
    assert found == {
        "depth=2": 1.0,
        "count LINEAR": 1.0, "count ATTENDING": 1.0, "slope LINEAR": -0.5, "slope ATTENDING": 0.5,
        "bend LINEAR": pytest.approx(-1 / 12), "bend ATTENDING": pytest.approx(-1 / 12),
        "first LINEAR": 1.0, "last ATTENDING": 1.0,
        "count gated_delta": 1.0, "count full": 1.0, "slope gated_delta": -0.5, "slope full": 0.5,
        "bend gated_delta": pytest.approx(-1 / 12), "bend full": pytest.approx(-1 / 12),
        "first gated_delta": 1.0, "last full": 1.0,
        "gated_delta.head_dim=8": 1.0,
        "LINEAR ATTENDING": 1.0, "gated_delta full": 1.0,
        "attending>=1": 1.0,
    }  # fmt: skip


def test_options_count_only_where_they_are_used() -> None:
    chain = chain_of(catalog.load(SMALL))
    found = named(chain, Plan(16, ("full", "sliding"), {"gated_delta.head_dim": 8}))
    assert not [name for name in found if "head_dim" in name]


def test_splits_and_routes_attend_and_windows_do_not() -> None:
    chain = chain_of(catalog.load("tiny"))
    attending = {name for name, attends in zip(chain.entries, chain.attends, strict=True) if attends}
    assert attending == {"full", "split", "route"}


def test_different_architectures_have_different_terms_and_controls_outside_have_none(tiny: Space) -> None:
    rng = random.Random(0)
    texts = {canonical_json(sampling.sample(tiny, rng)) for _ in range(60)}
    rows = {tuple(row.tolist()) for text in texts if (row := row_of(tiny, text)) is not None}
    assert len(rows) == len(texts)
    other = catalog.load({**SMALL, "depth": [4, 5], "feed_forward": {"ratio": 2}, "reference": {"depth": 3}})
    assert {plan_of(other, canonical_json(control)) for control in controls(other).values()} == {None}


@pytest.fixture(scope="module")
def tiny() -> Space:
    return catalog.load("tiny")


costs = st.integers(-20, 20).map(float)


@given(st.data())
def test_dynamic_programming_finds_the_cheapest_of_all_chains(data: st.DataObject) -> None:
    length, states = data.draw(st.integers(1, 4)), data.draw(st.integers(1, 3))

    def numbers(*shape: int) -> np.ndarray[tuple[int, ...], np.dtype[np.float64]]:
        size = int(np.prod(shape))
        return np.array(data.draw(st.lists(costs, min_size=size, max_size=size))).reshape(shape)

    unary, pairs, worth = numbers(length, states), numbers(states, states), numbers(length + 1)
    forbidden = data.draw(st.lists(st.tuples(st.integers(0, length - 1), st.integers(0, states - 1)), max_size=3))
    for place, state in forbidden:
        unary[place, state] = np.inf
    counted = np.array(data.draw(st.lists(st.booleans(), min_size=states, max_size=states)))
    worth[data.draw(st.integers(0, length))] = np.inf

    def cost(chain: tuple[int, ...]) -> float:
        pair = sum(pairs[a, b] for a, b in itertools.pairwise(chain))
        single = sum(unary[place, state] for place, state in enumerate(chain))
        return float(single + pair + worth[sum(counted[state] for state in chain)])

    least = min(cost(chain) for chain in itertools.product(range(states), repeat=length))
    found = cheapest(unary, pairs, counted, worth)
    if found is None:
        assert least == np.inf
    else:
        assert cost(tuple(found)) == pytest.approx(least)


@pytest.mark.parametrize("limits", [None, {"minimum": 2}, {"maximum": 1}, {"minimum": 1, "maximum": 1}])
@pytest.mark.parametrize("rules", [{}, {"not_first": ["full"], "not_last": ["sliding"], "not_adjacent": ["full"]}])
def test_the_best_layers_are_the_best_of_the_space(limits: dict[str, int] | None, rules: dict[str, list[str]]) -> None:
    free = {"free": ["full", "gated_delta", "sliding"]}
    space = catalog.load({**SMALL, "layers": free | rules, "constraints": {"full_layers": limits} if limits else {}})
    chain = Chain(space)
    allowed = [
        plan
        for layers in itertools.product(space.free, repeat=4)
        if not judge(space, plan := Plan(16, layers, {"gated_delta.head_dim": 4}, 0)).faults
    ]
    for seed in range(20):
        weights = np.random.default_rng(seed).standard_normal(len(chain.names))
        best = min(allowed, key=lambda plan: float(chain.row(plan) @ weights))
        assert chain.best_layers(weights, allowed[0]) == best.layers


def test_no_stack_is_allowed() -> None:
    space = catalog.load({**SMALL, "constraints": {"full_layers": {"minimum": 4}}})
    like = Plan(16, ("full", "full"), {"gated_delta.head_dim": 4}, 0)
    assert Chain(space).best_layers(np.zeros(len(Chain(space).names)), like) is None
