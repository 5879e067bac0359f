import random
from itertools import product

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hybridsearch.errors import InvalidSetting
from hybridsearch.search_spaces import catalog, encoding, sampling
from hybridsearch.search_spaces.controls import controls
from hybridsearch.search_spaces.encoding import Categorical, Integer
from hybridsearch.search_spaces.menu import Value
from hybridsearch.search_spaces.space import Space
from hybridsearch.spec.canonical import canonical_json, content_hash

PRESETS = {name: catalog.load(name) for name in catalog.presets()}


def choices(parameter: encoding.Parameter) -> list[Value]:
    if isinstance(parameter, Categorical):
        return list(parameter.choices)
    return list(range(parameter.low, parameter.high + 1))


def point(space: Space, rng: random.Random) -> dict[str, Value]:
    return {parameter.name: rng.choice(choices(parameter)) for parameter in encoding.parameters(space)}


def test_decoding_covers_the_space_and_nothing_else(small: Space) -> None:
    expected = {content_hash(architecture) for architecture in small.listing or ()}
    parameters = encoding.parameters(small)
    every = product(*(choices(parameter) for parameter in parameters))
    points = [dict(zip((p.name for p in parameters), values, strict=True)) for values in every]
    sampled = points if len(points) <= 2000 else random.Random(0).sample(points, 500)
    found = {content_hash(encoding.decode(small, values)) for values in sampled}
    assert found <= expected
    if len(points) <= 2000:
        assert found == expected


def test_every_architecture_has_a_point(small: Space) -> None:
    names = {parameter.name for parameter in encoding.parameters(small)}
    for architecture in small.listing or ():
        values = encoding.encode(small, architecture)
        assert values is not None and set(values) == names
        assert content_hash(encoding.decode(small, values)) == content_hash(architecture)


@settings(max_examples=60, deadline=None)
@given(st.sampled_from(sorted(PRESETS)), st.integers(0, 2**32))
def test_points_of_presets_decode_into_them(preset: str, seed: int) -> None:
    space, rng = PRESETS[preset], random.Random(seed)
    values = point(space, rng)
    architecture = encoding.decode(space, values)
    assert space.violations(architecture) == []
    assert canonical_json(architecture) == canonical_json(encoding.decode(space, dict(reversed(values.items()))))
    sample = sampling.sample(space, rng)
    encoded = encoding.encode(space, sample)
    assert encoded is not None
    assert content_hash(encoding.decode(space, encoded)) == content_hash(sample)


def test_parameters_are_few() -> None:
    assert {name: len(encoding.parameters(space)) for name, space in PRESETS.items() if name != "tiny"} == {
        "layers": 28,
        "heads": 22,
        "tokens": 26,
        "full": 39,
    }
    assert len(encoding.parameters(PRESETS["tiny"])) <= 16


def test_parameters_with_one_choice_are_left_out(small: Space) -> None:
    assert all(len(choices(parameter)) > 1 for parameter in encoding.parameters(small))


def test_outsiders_have_no_point(small: Space) -> None:
    for control in controls(small).values():
        values = encoding.encode(small, control)
        assert (values is None) == bool(small.violations(control))


def test_unknown_names_and_values_are_refused() -> None:
    space = PRESETS["layers"]
    with pytest.raises(InvalidSetting, match="unknown parameter 'hight'; known: depth, width, rule"):
        encoding.decode(space, {"hight": 3})
    with pytest.raises(InvalidSetting, match="13 is no value of the parameter 'depth'"):
        encoding.decode(space, {"depth": 13})
    with pytest.raises(InvalidSetting, match="'5:1' is no value of the parameter 'ratio'"):
        encoding.decode(space, {"ratio": "5:1"})


def test_left_out_values_are_the_first_choices() -> None:
    space = PRESETS["layers"]
    firsts = {parameter.name: parameter.first for parameter in encoding.parameters(space)}
    assert encoding.decode(space, {}) == encoding.decode(space, firsts)


def test_depths_in_a_row_are_a_number_others_a_choice() -> None:
    by_name = {parameter.name: parameter for parameter in encoding.parameters(PRESETS["layers"])}
    assert by_name["depth"] == Integer("depth", 4, 12)
    assert by_name["width"] == Categorical("width", (128, 160, 192, 224, 256))
