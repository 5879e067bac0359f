from collections.abc import Callable
from typing import Any

import pytest

from hybridsearch.errors import Infeasible
from hybridsearch.search_spaces import catalog
from hybridsearch.search_spaces.controls import controls
from hybridsearch.search_spaces.space import Space
from hybridsearch.spec import cost
from hybridsearch.spec.architecture import Architecture

SpaceOf = Callable[..., Space]
FIXED = {"feed_forward": {"ratio": 2}}


def kinds(architecture: Architecture) -> list[str]:
    return [layer.mixer.kind for layer in architecture.layers]


@pytest.mark.parametrize(("depth", "expected"), [(8, [3, 7]), (4, [3]), (3, [2]), (2, [1]), (6, [3]), (12, [3, 7, 11])])
def test_controls_are_full_linear_and_every_fourth_layer_full(
    space_of: SpaceOf, depth: int, expected: list[int]
) -> None:
    found = controls(space_of(depth=depth))
    assert list(found) == ["full", "linear", "three_to_one"]
    assert kinds(found["full"]) == ["full"] * depth
    assert kinds(found["linear"]) == ["gated_delta"] * depth
    assert [layer for layer, kind in enumerate(kinds(found["three_to_one"])) if kind == "full"] == expected


@pytest.mark.parametrize("changes", [{}, FIXED, {"feed_forward": {"width": [48, 64]}}])
def test_controls_have_the_same_parameters(space_of: SpaceOf, changes: dict[str, Any]) -> None:
    space = space_of(depth=[4, 6, 8], **changes)
    counts = [cost.parameters(control) for control in controls(space).values()]
    assert counts[0] == space.target
    assert max(abs(count - counts[0]) for count in counts) <= 0.02 * counts[0]


def test_the_full_control_keeps_a_fixed_feed_forward(space_of: SpaceOf) -> None:
    found = controls(space_of(**FIXED))
    assert {layer.feed_forward for layer in found["full"].layers} == {32}
    assert {layer.feed_forward for layer in found["linear"].layers} != {32}


def test_controls_have_the_reference_size(space_of: SpaceOf) -> None:
    space = space_of(depth=[2, 4, 8], width=[16, 32, 64])
    assert {(c.width, len(c.layers)) for c in controls(space).values()} == {(32, 4)}
    space = space_of(depth=[2, 4, 8], width=[16, 32, 64], reference={"depth": 8, "width": 16})
    assert {(c.width, len(c.layers)) for c in controls(space).values()} == {(16, 8)}


def test_a_number_of_parameters_is_met_by_all_controls(space_of: SpaceOf) -> None:
    space = space_of(width=32, feed_forward={"parameters": {"match": 60_000, "tolerance": 0.01}})
    for control in controls(space).values():
        assert abs(cost.parameters(control) - 60_000) <= 600


def test_a_window_stands_in_for_a_missing_linear_mixer(space_of: SpaceOf) -> None:
    space = space_of(mixers={"full": {"head_dim": 8}, "swa": {"kind": "sliding", "head_dim": 8, "window": 8}})
    assert kinds(controls(space)["linear"]) == ["sliding"] * 2


def test_the_first_linear_entry_and_its_first_options_are_used(space_of: SpaceOf) -> None:
    mixers = {
        "full": {"head_dim": 8},
        "swa": {"kind": "sliding", "head_dim": 8, "window": 8},
        "gla": {"kind": "gated_linear", "heads": 2, "head_dim": [8, 4]},
        "delta": {"head_dim": 8},
    }
    linear = controls(space_of(mixers=mixers))["linear"].layers[0].mixer
    assert (linear.kind, getattr(linear, "head_dim", None)) == ("gated_linear", 8)


def test_controls_that_cannot_be_matched_are_refused(space_of: SpaceOf) -> None:
    space = space_of(feed_forward={"parameters": {"match": 100}})
    with pytest.raises(Infeasible, match="the control 'full' misses 100 parameters by"):
        controls(space)


def test_presets_have_controls() -> None:
    for name in catalog.presets():
        space = catalog.load(name)
        counts = {key: cost.parameters(control) for key, control in controls(space).items()}
        assert all(abs(count - counts["full"]) <= 0.02 * counts["full"] for count in counts.values()), name
        states = {key: cost.state_bytes(control, 4096) for key, control in controls(space).items()}
        assert states["linear"] < states["three_to_one"] < states["full"], name
