import random
from collections.abc import Callable

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hybridsearch.search_spaces import catalog, feed_forward, rules, sampling
from hybridsearch.search_spaces.space import Space
from hybridsearch.spec import cost
from hybridsearch.spec.architecture import Architecture, Layer
from hybridsearch.spec.mixers import Delta, FullAttention

SpaceOf = Callable[..., Space]
PRESETS = {name: catalog.load(name) for name in catalog.presets()}


@settings(max_examples=120, deadline=None)
@given(
    st.sampled_from(sorted(name for name in PRESETS if PRESETS[name].feed_forward.parameters)), st.integers(0, 2**32)
)
def test_every_sample_of_every_solved_preset_has_the_reference_parameters(preset: str, seed: int) -> None:
    space = PRESETS[preset]
    match = space.feed_forward.parameters
    assert match is not None and match.match == "full" and match.tolerance <= 0.02
    architecture = sampling.sample(space, random.Random(seed))
    count = cost.parameters(architecture)
    assert abs(count - space.target) <= match.tolerance * space.target
    assert rules.parameters(architecture) == count
    low, high = feed_forward.limits(space, architecture.width)
    assert low <= architecture.layers[0].feed_forward <= high


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 2**32))
def test_the_tiny_presets_mixers_are_equally_large_without_feed_forwards(seed: int) -> None:
    architecture = sampling.sample(PRESETS["tiny"], random.Random(seed))
    a_layer = PRESETS["tiny"].target / 4
    count = cost.parameters(architecture)
    assert abs(count - a_layer * len(architecture.layers)) <= 0.05 * count


def test_the_reference_is_full_attention_of_the_reference_size(space_of: SpaceOf) -> None:
    space = space_of(depth=[2, 4, 8], width=[16, 32, 64], reference={"depth": 8, "width": 64, "ratio": 3})
    layer = Layer(mixer=FullAttention(heads=8, head_dim=8), feed_forward=192)
    assert space.target == cost.parameters(Architecture(width=64, layers=(layer,) * 8))


@given(st.integers(1, 6), st.integers(8, 200), st.sampled_from([1, 8, 16]), st.sampled_from([0.001, 0.02, 0.1]))
def test_a_solved_width_is_the_nearest_or_a_multiple_within_half_the_tolerance(
    depth: int, inner: int, multiple: int, tolerance: float
) -> None:
    mixers = [Delta(heads=2, head_dim=8)] * depth
    layers = tuple(Layer(mixer=mixer, feed_forward=inner) for mixer in mixers)
    target = cost.parameters(Architecture(width=16, layers=layers))
    solved = feed_forward.solve(16, mixers, target, multiple, tolerance)
    found = cost.parameters(Architecture(width=16, layers=tuple(Layer(mixer=m, feed_forward=solved) for m in mixers)))
    if solved != inner:
        assert solved % multiple == 0
        assert abs(found - target) <= tolerance / 2 * target


@pytest.mark.parametrize(
    ("rule", "expected"),
    [
        ({"width": [24, 40]}, {24, 40}),
        ({"ratio": [1, 2.5]}, {16, 40}),
        ({"ratio": 2.4, "multiple": 16}, {32}),
        ({"width": 0}, {0}),
    ],
)
def test_fixed_feed_forwards(space_of: SpaceOf, rule: dict[str, object], expected: set[int]) -> None:
    space = space_of(feed_forward=rule)
    found = {layer.feed_forward for architecture in space.listing or () for layer in architecture.layers}
    assert found == expected
    assert all(space.violations(architecture) == [] for architecture in space.listing or ())
    assert {rules.parameters(a) - cost.parameters(a) for a in space.listing or ()} == {0}


def test_a_solved_feed_forward_outside_its_range_is_a_violation(space_of: SpaceOf) -> None:
    loose = space_of(depth=[1, 3], layers={"free": ["full"]}, feed_forward={"parameters": {"match": 6000}})
    tight = space_of(
        depth=[1, 3],
        layers={"free": ["full"]},
        feed_forward={"parameters": {"match": 6000}, "minimum": 1, "maximum": 4},
    )
    assert sorted(len(a.layers) for a in loose.listing or ()) == [1, 3]
    assert [len(a.layers) for a in tight.listing or ()] == [3]
    single = next(a for a in loose.listing or () if len(a.layers) == 1)
    clipped = single.model_copy(update={"layers": (single.layers[0].model_copy(update={"feed_forward": 64}),)})
    assert any("miss 6,000 by" in text for text in tight.violations(clipped))
