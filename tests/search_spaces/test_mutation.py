import random
from collections.abc import Callable

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hybridsearch.errors import InvalidArchitecture
from hybridsearch.search_spaces import catalog, crossover, mutation, sampling, steps
from hybridsearch.search_spaces.controls import controls
from hybridsearch.search_spaces.plan import Plan, read
from hybridsearch.search_spaces.space import Space
from hybridsearch.spec.architecture import Architecture
from hybridsearch.spec.canonical import canonical_json, content_hash
from hybridsearch.spec.mixers import FullAttention

SpaceOf = Callable[..., Space]
PRESETS = {name: catalog.load(name) for name in catalog.presets()}


def test_a_walk_of_mutations_visits_the_whole_space(small: Space) -> None:
    expected = {content_hash(architecture) for architecture in small.listing or ()}
    rng = random.Random(1)
    here, seen = sampling.sample(small, rng), set[str]()
    for _ in range(120 * len(expected)):
        here = mutation.mutate(small, here, rng)
        seen.add(content_hash(here))
        if seen == expected:
            return
    pytest.fail(f"{len(expected - seen)} of {len(expected)} architectures were never reached")


@settings(max_examples=60, deadline=None)
@given(st.sampled_from(sorted(PRESETS)), st.integers(0, 2**32))
def test_children_lie_in_the_space_and_differ_from_their_parent(preset: str, seed: int) -> None:
    space, rng = PRESETS[preset], random.Random(seed)
    a, b = sampling.sample(space, rng), sampling.sample(space, rng)
    mutant, child = mutation.mutate(space, a, rng), crossover.cross(space, a, b, rng)
    assert space.violations(a) == space.violations(mutant) == space.violations(child) == []
    assert content_hash(mutant) != content_hash(a)


def test_the_same_seed_gives_the_same_children(small: Space) -> None:
    rng = random.Random(0)
    a, b = sampling.sample(small, rng), sampling.sample(small, rng)

    def children(seed: int) -> tuple[str, str]:
        mutant = mutation.mutate(small, a, random.Random(seed))
        return canonical_json(mutant), canonical_json(crossover.cross(small, a, b, random.Random(seed)))

    first = [children(seed) for seed in range(6)]
    assert first == [children(seed) for seed in range(6)]
    assert len(set(first)) > 1


def test_most_mutations_are_small() -> None:
    space, rng = PRESETS["layers"], random.Random(0)
    near = 0
    for _ in range(100):
        before = sampling.sample(space, rng)
        old, new = read(space, before), read(space, mutation.mutate(space, before, rng))
        keys = space.menu.keys(old.layers, old.options)
        changed = (
            (old.width != new.width)
            + (old.depth != new.depth)
            + (old.layers != new.layers and old.depth == new.depth)
            + any(old.options[key] != new.options[key] for key in keys if key in space.menu.keys(new.layers, {}))
        )
        near += changed <= 1
    assert near >= 90


def test_the_only_architecture_of_a_space_is_returned(space_of: SpaceOf) -> None:
    space = space_of(depth=2, layers={"free": ["full"]})
    only = sampling.sample(space, random.Random(0))
    assert mutation.mutate(space, only, random.Random(0)) == only
    assert crossover.cross(space, only, only, random.Random(0)) == only


def test_controls_outside_the_space_can_be_parents(small: Space) -> None:
    for control in controls(small).values():
        assert small.violations(mutation.mutate(small, control, random.Random(0))) == []
        for other in (small.listing or ())[:5]:
            assert small.violations(crossover.cross(small, control, other, random.Random(0))) == []


def test_a_foreign_mixer_cannot_be_mutated(space_of: SpaceOf) -> None:
    space = space_of()
    inside = sampling.sample(space, random.Random(0))
    foreign = inside.layers[0].model_copy(update={"mixer": FullAttention(heads=3, head_dim=2)})
    with pytest.raises(InvalidArchitecture, match="layer 0: its full mixer is not one that the menu can make"):
        mutation.mutate(space, inside.model_copy(update={"layers": (foreign,)}), random.Random(0))


def stepped(space: Space, name: str, plan: Plan) -> set[tuple[str, ...]]:
    """Layers that a kind of step leads to."""
    found = (steps.STEPS[name](space, plan, random.Random(seed)) for seed in range(60))
    return {plan.layers for plan in found if plan is not None}


def test_each_step_does_what_its_name_says(space_of: SpaceOf) -> None:
    space = space_of("heads_and_tokens", layers={"free": ["full", "gdn", "split", "route"]})
    plan = Plan(16, ("full", "gdn"), space.menu.first)
    assert stepped(space, "move_layer", plan) == {("gdn", "full")}
    assert stepped(space, "split_or_merge", plan) == {("split", "gdn"), ("full", "split")}
    assert stepped(space, "reroute", plan) == {("route", "gdn"), ("full", "route")}
    assert ("gdn", "full") in stepped(space, "exchange_entries", plan)
    assert {len(layers) for layers in stepped(space, "add_or_remove_layers", plan)} == {1}
    routed = Plan(16, ("route", "split"), space.menu.first)
    assert {("gdn", "split"), ("full", "split")} <= stepped(space, "reroute", routed)
    assert {("route", "gdn"), ("route", "full")} <= stepped(space, "split_or_merge", routed)
    assert stepped(space, "widen_or_narrow", plan) == stepped(space, "change_pattern", plan) == set()


def test_a_pattern_is_changed_as_a_whole(space_of: SpaceOf) -> None:
    space = space_of("pattern")
    plan = Plan(16, ("gdn", "gdn", "gdn", "full"), space.menu.first, 1)
    reached = stepped(space, "change_pattern", plan)
    assert {("gdn", "full", "gdn", "full"), ("gdn",) * 4, ("full",) * 4, ("swa", "swa", "swa", "full")} <= reached
    assert any(layers.count("full") == 1 and layers[3] == "gdn" for layers in reached)
    assert stepped(space, "add_or_remove_layers", plan) == {("gdn", "full")}


def test_crossover_takes_layers_of_both_parents(space_of: SpaceOf) -> None:
    space = space_of(depth=[4, 6], feed_forward={"ratio": 1})
    shallow = next(a for a in every(space, 4) if {layer.mixer.kind for layer in a.layers} == {"full"})
    deep = next(a for a in every(space, 6) if {layer.mixer.kind for layer in a.layers} == {"sliding"})
    children = [crossover.cross(space, shallow, deep, random.Random(seed)) for seed in range(60)]
    assert {len(child.layers) for child in children} == {4, 6}
    kinds = [[layer.mixer.kind for layer in child.layers] for child in children]
    assert all(set(row) <= {"full", "sliding"} for row in kinds)
    assert ["full", "full", "full", "sliding", "sliding", "sliding"] in kinds
    assert sum(len(set(row)) == 2 for row in kinds) > 50


def every(space: Space, depth: int) -> list[Architecture]:
    """Architectures of one depth."""
    return [architecture for architecture in space.listing or () if len(architecture.layers) == depth]
