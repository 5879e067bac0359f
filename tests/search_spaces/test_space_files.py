from collections.abc import Callable
from pathlib import Path

import pytest

from hybridsearch.errors import InvalidFile
from hybridsearch.search_spaces import catalog

Write = Callable[[str], Path]
PAIR = "  full: {head_dim: 8}\n  delta: {head_dim: 8}"
GOOD = """\
depth: [2, 4]
width: 32
mixers:
  full: {head_dim: 8}
  gdn:
    kind: gated_delta
    heads: 2
    head_dim: [4, 8]
  split: {kind: head_split, of: [full, gdn], split: 1:1}
layers:
  free: [full, gdn]
  pattern:
    ratio: [3:1, 1:0]
    placement: [uniform, last]
constraints:
  full_layers: {maximum: 2}
"""


def test_the_good_file_is_good(file_of: Write) -> None:
    space = catalog.load(file_of(GOOD))
    assert space.layers.pattern is not None
    assert space.layers.pattern.ratio == ("3:1", "1:0")  # YAML reads 3:1 as the base-60 number 181
    assert space.mixers["split"].entry("split").choices["split"] == ("1:1",)


@pytest.mark.parametrize(
    ("old", "new", "line", "text"),
    [
        ("width: 32", "widht: 32", 2, "`widht`: unknown key; known here: constraints, depth, "),
        ("    head_dim: [4, 8]", "    haed_dim: [4, 8]", 8, "`mixers.gdn.haed_dim`: unknown key; known here: gate, "),
        ("    heads: 2", "    heads: two", 7, "`mixers.gdn.heads`: "),
        ("    heads: 2", "    heads: 0", 7, "must be at least 1, found 0"),
        ("    heads: 2", "    heads: true", 7, "`mixers.gdn.heads`: "),
        ("[4, 8]", "[4, 8.5]", 8, "`mixers.gdn.head_dim.1`: expected a whole number, found 8.5"),
        ("[4, 8]", "[4, 4]", 8, "`mixers.gdn.head_dim`: 4 is listed twice"),
        ("[4, 8]", "[]", 8, "`mixers.gdn.head_dim`: "),
        ("kind: gated_delta", "kind: gated_dleta", 5, "`mixers.gdn`: unknown kind 'gated_dleta'; known: 'full'"),
        ("    kind: gated_delta\n", "", 5, "`mixers.gdn`: unknown kind 'gdn'; known: "),
        ("of: [full, gdn]", "of: [full, mamba]", 9, "`mixers.split.of`: 'mamba' is not on the menu: full, gdn, split"),
        ("of: [full, gdn]", "of: [full, split]", 9, "'split' is of kind head_split; a head_split takes "),
        ("split: 1:1", "split: 1:2:1", 9, "`mixers.split.split`: split 1:2:1 does not fit the mixers full+gdn"),
        ("split: 1:1", "split: 1:15", 9, "no choice of options fits any width: mixers.split: 4 heads of full cannot"),
        ("free: [full, gdn]", "free: [full, gdm]", 11, "`layers.free`: 'gdm' is not on the menu"),
        ("[3:1, 1:0]", "[3:1, 3-1]", 13, "`layers.pattern.ratio.1`: "),
        ("[3:1, 1:0]", "[3:1, 0:0]", 13, "`layers.pattern.ratio.1`: 0:0 has no layers"),
        ("[uniform, last]", "[uniform, lats]", 14, "`layers.pattern.placement.1`: expected 'uniform', 'first'"),
        (
            "maximum: 2",
            "maximun: 2",
            16,
            "`constraints.full_layers.maximun`: unknown key; known here: maximum, min",
        ),
        ("maximum: 2", "minimum: 3, maximum: 2", 16, "minimum 3 is above maximum 2"),
        ("maximum: 2", "minimum: 5", 16, "`constraints.full_layers.minimum`: 5 full layers do not fit the greatest"),
        ("  full: {head_dim: 8}", "  full: {head_dim: 5}", 4, "width 32 is not a multiple of head_dim 5"),
        ("depth: [2, 4]", "depth: {minimum: 2, maximum: 4, stpe: 2}", 1, "`depth.stpe`: unknown key; known here: min"),
        ("depth: [2, 4]", "depth: {minimum: 4, maximum: 2}", 1, "`depth.minimum`: minimum 4 is above maximum 2"),
        (
            "depth: [2, 4]",
            "depth: {maximum: 2}",
            1,
            "`depth.minimum`: minimum must be a whole number from 1 up, found None",
        ),
        ("depth: [2, 4]", "depth: deep", 1, "`depth`: expected a whole number, found 'deep'"),
    ],
)
def test_a_wrong_file_is_refused_with_its_line(file_of: Write, old: str, new: str, line: int, text: str) -> None:
    assert GOOD.count(old) >= 1
    path = file_of(GOOD.replace(old, new, 1))
    with pytest.raises(InvalidFile) as refused:
        catalog.load(path)
    message = str(refused.value)
    assert message.startswith(f"{path}, line {line}: ")
    assert text in message
    assert "\n" not in message


@pytest.mark.parametrize(
    ("more", "line", "text"),
    [
        ("feed_forward: {multiple: 4}", 17, "give one of width, ratio and parameters, found none"),
        ("feed_forward: {ratio: 2, width: 64}", 17, "found width and ratio"),
        ("feed_forward: {parameters: {match: all}}", 17, "`feed_forward.parameters.match`: "),
        ("constraint: {}", 17, "`constraint`: unknown key"),
        ("reference: {width: 30}", 17, "`reference.width`: full must fit the width of the controls, 30"),
    ],
)
def test_a_wrong_addition_is_refused_with_its_line(file_of: Write, more: str, line: int, text: str) -> None:
    with pytest.raises(InvalidFile) as refused:
        catalog.load(file_of(f"{GOOD}{more}\n"))
    assert f"line {line}: " in str(refused.value)
    assert text in str(refused.value)


@pytest.mark.parametrize(
    ("mixers", "text"),
    [
        (
            "  full: {head_dim: 8}",
            "need an entry of kind gated_delta or delta or gated_linear or kimi_delta or hgrn or sliding",
        ),
        ("  delta: {head_dim: 8}", "need an entry of kind full"),
        (
            "  full: {head_dim: 8}\n  delta: {head_dim: 8}\n  r: {kind: token_route, linear: full}",
            "'full' is of kind full",
        ),
        ("  full: {head_dim: 8}\n  delta: 3", "`mixers.delta`: "),
        ("  Full: {head_dim: 8}", "`mixers.Full`: "),
    ],
)
def test_a_menu_needs_its_controls_and_fitting_parts(file_of: Write, mixers: str, text: str) -> None:
    with pytest.raises(InvalidFile) as refused:
        catalog.load(file_of(f"depth: 2\nwidth: 32\nmixers:\n{mixers}\n"))
    assert text in str(refused.value)


def test_layers_need_an_entry_at_both_ends(file_of: Write) -> None:
    text = f"depth: 2\nwidth: 32\nmixers:\n{PAIR}\nlayers:\n  free: full\n  not_last: [delta, full]\n"
    with pytest.raises(InvalidFile, match=r"line 8: `layers\.not_last`: refuses every entry that a layer may have"):
        catalog.load(file_of(text))


def test_patterns_need_roles_that_differ(file_of: Write) -> None:
    path = file_of(GOOD.replace("    placement: [uniform, last]", "    full: gdn"))
    with pytest.raises(InvalidFile, match=r"line 14: `layers\.pattern\.full`: 'gdn' stands for linear and for full"):
        catalog.load(path)


def test_a_huge_menu_is_refused_at_its_entry(file_of: Write) -> None:
    numbers = ", ".join(str(number) for number in range(1, 70))
    menu = f"  full: {{head_dim: 8}}\n  delta: {{heads: [{numbers}], head_dim: [{numbers}]}}\n"
    with pytest.raises(InvalidFile, match=r"line 5: `mixers\.delta`: 4761 combinations of options; at most 4096"):
        catalog.load(file_of(f"depth: 2\nwidth: 32\nmixers:\n{menu}"))
