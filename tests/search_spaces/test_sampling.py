import random
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hybridsearch.errors import Infeasible
from hybridsearch.search_spaces import catalog, feasibility, sampling
from hybridsearch.search_spaces.rules import in_space
from hybridsearch.search_spaces.space import Space
from hybridsearch.spec import cost
from hybridsearch.spec.canonical import canonical_json, content_hash, parse

SpaceOf = Callable[..., Space]
ALTERNATING = {"free": ["full", "swa"], "not_adjacent": ["full", "swa"], "not_first": "full", "not_last": "full"}
"""No even depth can alternate and have the same entry at both ends."""


def test_samples_cover_a_small_space_and_nothing_else(small: Space) -> None:
    assert small.listing
    expected = {content_hash(architecture) for architecture in small.listing}
    rng = random.Random(5)
    found = {content_hash(sampling.sample(small, rng)) for _ in range(40 * len(expected))}
    assert found <= expected
    assert len(found) >= 0.9 * len(expected)


def test_the_same_seed_gives_the_same_samples(small: Space) -> None:
    a, b = random.Random(3), random.Random(3)
    first = [canonical_json(sampling.sample(small, a)) for _ in range(8)]
    assert first == [canonical_json(sampling.sample(small, b)) for _ in range(8)]
    other = random.Random(4)
    assert first != [canonical_json(sampling.sample(small, other)) for _ in range(8)]


def test_samples_survive_the_store(small: Space) -> None:
    rng = random.Random(0)
    for _ in range(10):
        assert in_space(small, parse(canonical_json(sampling.sample(small, rng))))


menus = st.dictionaries(
    st.sampled_from(["gdn", "delta", "swa", "split", "route"]), st.just(None), min_size=1, max_size=3
).map(list)
LINES: dict[str, dict[str, Any]] = {
    "gdn": {"kind": "gated_delta", "heads": 2, "head_dim": [4, 8]},
    "delta": {"heads": [2, 4], "head_dim": 4},
    "swa": {"kind": "sliding", "head_dim": 8, "window": 4},
    "split": {"kind": "head_split", "of": ["full", "linear"], "split": ["1:1", "1:3"]},
    "route": {"kind": "token_route", "linear": "linear", "chunk": 4},
}
limits = st.integers(0, 3).flatmap(lambda low: st.integers(low, 4).map(lambda high: {"minimum": low, "maximum": high}))


@st.composite
def spaces(draw: st.DrawFn) -> Space:
    """Small spaces, many of them without any architecture."""
    names = draw(menus)
    depths = draw(st.lists(st.integers(1, 3), min_size=1, max_size=2, unique=True))
    full_layers = draw(st.none() | limits.filter(lambda limit: limit["minimum"] <= max(depths)))
    state = draw(st.none() | st.fixed_dictionaries({"context": st.just(64), "maximum": st.integers(0, 12000)}))
    free = draw(st.sampled_from([["full", *names], names]))
    rules: dict[str, Any] = {"free": free, "not_adjacent": draw(st.sampled_from([[], ["full"], free]))}
    return catalog.load(
        {
            "depth": depths,
            "width": draw(st.sampled_from([[16], [16, 24]])),
            "mixers": {
                "full": {"head_dim": 8},
                "linear": {"kind": "delta", "heads": 4, "head_dim": 4},
                **{name: LINES[name] for name in names},
            },
            "layers": rules,
            "feed_forward": draw(st.sampled_from([{"ratio": 1}, {"parameters": {"tolerance": 0.05}, "maximum": 4}])),
            "constraints": {
                key: value for key, value in (("full_layers", full_layers), ("state_bytes", state)) if value is not None
            },
        }
    )


@settings(max_examples=60, deadline=None)
@given(spaces(), st.integers(0, 2**32))
def test_a_space_is_sampled_unless_it_is_empty(space: Space, seed: int) -> None:
    assert space.listing is not None
    if space.listing:
        sampled = sampling.sample(space, random.Random(seed))
        assert space.violations(sampled) == []
        assert content_hash(sampled) in {content_hash(architecture) for architecture in space.listing}
        assert feasibility.impossible(space) is None
    else:
        with pytest.raises(Infeasible):
            sampling.sample(space, random.Random(seed))


@pytest.mark.parametrize(
    ("changes", "text"),
    [
        (
            {"constraints": {"state_bytes": {"context": 64, "maximum": 10}}},
            "`constraints.state_bytes` cannot be met: at most 10 asked, at least",
        ),
        (
            {"constraints": {"parameters": {"maximum": 10}}},
            "`constraints.parameters` cannot be met: at most 10 asked, at least",
        ),
        (
            {"feed_forward": {"parameters": {"match": 10_000_000}}},
            "`feed_forward.parameters` cannot be met: at least 9,800,000 asked, at most",
        ),
        (
            {"layers": {"free": ["gdn", "swa"]}, "constraints": {"full_layers": {"minimum": 1}}},
            "`constraints.full_layers` cannot be met: at least 1 asked, at most 0 possible",
        ),
        (
            {
                "constraints": {
                    "full_layers": {"minimum": 2},
                    "state_bytes": {"context": 1000, "maximum": 100_000},
                }
            },
            "`constraints.state_bytes` cannot be met: at most 100,000 asked, at least 128,000 needed",
        ),
        ({"depth": 2, "layers": ALTERNATING}, "no architecture of the space meets its constraints: `layers.not_"),
    ],
)
def test_an_impossible_space_says_what_makes_it_so(space_of: SpaceOf, changes: dict[str, Any], text: str) -> None:
    with pytest.raises(Infeasible) as refused:
        sampling.sample(space_of(**changes), random.Random(0))
    assert text in str(refused.value)
    assert "\n" not in str(refused.value)


def test_an_impossible_large_space_is_given_up_after_bounded_tries(space_of: SpaceOf) -> None:
    space = space_of(depth=[30, 40], layers=ALTERNATING)
    assert space.listing is None
    with pytest.raises(Infeasible, match=r"no architecture found .* in 56 tries: `\S+` refused \d+ of 56 \(nearest: "):
        sampling.sample(space, random.Random(0))


def test_rare_architectures_are_found(space_of: SpaceOf) -> None:
    # One stack in 3^11 has full attention in each of its 10 middle layers and nowhere else.
    rules = {"not_first": "full", "not_last": "full"}
    space = space_of(depth=12, layers=rules, constraints={"full_layers": {"minimum": 10}}, feed_forward={"ratio": 1})
    for seed in range(5):
        assert cost.full_layers(sampling.sample(space, random.Random(seed))) == 10


def test_violations_name_every_broken_rule(space_of: SpaceOf) -> None:
    wide = space_of(depth=3)
    narrow = space_of(
        depth=2,
        layers={"not_first": "full", "not_adjacent": "full", "free": ["full", "gdn"]},
        constraints={"full_layers": {"maximum": 1}, "state_bytes": {"context": 64, "maximum": 1000}},
    )
    full = next(a for a in wide.listing or () if cost.full_layers(a) == 3)
    texts = narrow.violations(full)
    for part in (
        "depth 3 is not one of [2]",
        "the first layer is full",
        "2 pairs of adjacent layers of full",
        "3 full layers, at most 1 allowed",
        "bytes of state at 64 tokens, at most 1,000 allowed",
    ):
        assert any(part in text for text in texts), part
    swa = next(a for a in wide.listing or () if {layer.mixer.kind for layer in a.layers} == {"sliding"})
    assert any("follow no rule of the space" in text for text in narrow.violations(swa))


def test_a_changed_feed_forward_or_head_size_lies_outside(space_of: SpaceOf) -> None:
    space = space_of()
    inside = sampling.sample(space, random.Random(0))
    layer = inside.layers[0]
    fatter = inside.model_copy(update={"layers": (layer.model_copy(update={"feed_forward": 1000}), *inside.layers[1:])})
    assert any("feed-forward widths" in text for text in space.violations(fatter))
    untied = inside.model_copy(update={"tied_embeddings": False})
    assert space.violations(untied) == ["tied_embeddings is False, in the space True"]
    full = next(a for a in space.listing or () if a.layers[0].mixer.kind == "full")
    bigger = full.layers[0].mixer.model_copy(update={"head_dim": 6})
    odd = full.model_copy(update={"layers": (full.layers[0].model_copy(update={"mixer": bigger}), *full.layers[1:])})
    assert space.violations(odd) == ["layer 0: its full mixer is not one that the menu can make"]


def test_layers_of_one_entry_may_not_differ(space_of: SpaceOf) -> None:
    space = space_of(depth=2, layers={"free": ["gdn"]}, feed_forward={"ratio": 1})
    assert space.listing is not None and len(space.listing) == 2
    small, large = (architecture.layers[0] for architecture in space.listing)
    mixed = space.listing[0].model_copy(update={"layers": (small, large)})
    assert space.violations(mixed) == ["layers of one menu entry differ; an option is chosen once per architecture"]
