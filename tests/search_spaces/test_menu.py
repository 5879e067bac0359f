from typing import Any

import pytest

from hybridsearch.errors import InvalidArchitecture
from hybridsearch.search_spaces import catalog
from hybridsearch.search_spaces.menu import Menu
from hybridsearch.spec.canonical import canonical_json, parse
from hybridsearch.spec.combinators import HeadSplit, TokenRoute
from hybridsearch.spec.mixers import Delta, FullAttention, GatedDelta

MIXERS: dict[str, Any] = {
    "full": {"head_dim": 8, "kv_heads": [None, 2]},
    "gdn": {"kind": "gated_delta", "heads": 4, "head_dim": [4, 8], "value_head_dim": [None, 8]},
    "delta": {"heads": 2, "head_dim": 8},
    "split": {"kind": "head_split", "of": [["full", "gdn"], ["delta", "full"]], "split": ["1:1", "1:3"]},
    "route": {"kind": "token_route", "linear": ["gdn", "delta"], "softmax_heads": [None, 4], "chunk": 8},
}


@pytest.fixture
def menu() -> Menu:
    return catalog.load({"depth": 1, "width": 32, "mixers": MIXERS}).menu


def test_heads_fill_the_width(menu: Menu) -> None:
    assert menu.mixer("full", 32, menu.first) == FullAttention(heads=4, head_dim=8)
    assert menu.mixer("full", 64, menu.first) == FullAttention(heads=8, head_dim=8)
    with pytest.raises(InvalidArchitecture, match="width 20 is not a multiple of head_dim 8"):
        menu.mixer("full", 20, menu.first)


def test_options_are_taken_from_the_choice(menu: Menu) -> None:
    options = {**menu.first, "gdn.head_dim": 8, "full.kv_heads": 2}
    assert menu.mixer("gdn", 32, options) == GatedDelta(heads=4, head_dim=8)
    assert menu.mixer("full", 32, options) == FullAttention(heads=4, kv_heads=2, head_dim=8)


def test_a_split_gives_each_part_its_share_of_its_own_heads(menu: Menu) -> None:
    split = menu.mixer("split", 32, {**menu.first, "split.split": "1:3"})
    assert isinstance(split, HeadSplit)
    assert set(split.branches) == {FullAttention(heads=1, head_dim=8), GatedDelta(heads=3, head_dim=4)}


def test_a_split_of_too_few_heads_is_refused(menu: Menu) -> None:
    options = {**menu.first, "split.of": "delta+full", "split.split": "1:3"}
    with pytest.raises(InvalidArchitecture, match=r"mixers\.split: 2 heads of delta cannot be cut into 4 parts"):
        menu.mixer("split", 32, options)


def test_a_split_shrinks_grouped_heads_too(menu: Menu) -> None:
    split = menu.mixer("split", 32, {**menu.first, "full.kv_heads": 2})
    assert isinstance(split, HeadSplit)
    assert FullAttention(heads=2, kv_heads=1, head_dim=8) in split.branches


def test_a_route_shares_the_linear_projections(menu: Menu) -> None:
    route = menu.mixer("route", 32, {**menu.first, "route.linear": "delta", "route.softmax_heads": 4})
    assert isinstance(route, TokenRoute)
    assert route.linear == Delta(heads=2, head_dim=8)
    assert (route.softmax.heads, route.softmax.head_dim, route.softmax.value_head_dim) == (4, 4, None)


def test_a_share_belongs_to_fixed_routing_only() -> None:
    mixers = {**MIXERS, "route": {**MIXERS["route"], "routing": ["learned", "first"], "share": 0.5}}
    menu = catalog.load({"depth": 1, "width": 32, "mixers": mixers}).menu
    learned, first = (menu.mixer("route", 32, {**menu.first, "route.routing": r}) for r in ("learned", "first"))
    assert isinstance(learned, TokenRoute) and isinstance(first, TokenRoute)
    assert (learned.share, first.share) == (None, 0.5)


def test_every_mixer_is_found_again_after_the_store(menu: Menu) -> None:
    for name in menu.entries:
        for options in menu.combinations([name]):
            if menu.problem(name, 32, options):
                continue
            mixer = menu.mixer(name, 32, options)
            text = f'{{"width": 32, "layers": [{{"mixer": {mixer.model_dump_json()}, "feed_forward": 8}}]}}'
            stored = parse(canonical_json(parse(text))).layers[0].mixer
            assert (name, options) in menu.find(stored, 32)


def test_a_size_equal_to_its_default_is_the_same_mixer(menu: Menu) -> None:
    explicit = {**menu.first, "gdn.head_dim": 8, "gdn.value_head_dim": 8}
    implied = {**menu.first, "gdn.head_dim": 8}
    assert menu.mixer("gdn", 32, explicit) == menu.mixer("gdn", 32, implied)
    assert len(menu.find(GatedDelta(heads=4, head_dim=8, value_head_dim=8), 32)) == 2


def test_only_options_of_chosen_parts_matter(menu: Menu) -> None:
    assert menu.keys(["split"], {"split.of": "delta+full"}) == ("split.of", "split.split", "full.kv_heads")
    combinations = list(menu.combinations(["split"]))
    assert len(combinations) == 2 * (2 * 4) + 2 * 2 == menu.combination_count(["split"])
    assert len({tuple(sorted(c.items(), key=str)) for c in combinations}) == len(combinations)
    assert menu.combination_count(["split", "route"]) == len(list(menu.combinations(["split", "route"])))


def test_foreign_mixers_are_not_found(menu: Menu) -> None:
    assert menu.find(FullAttention(heads=4, head_dim=16), 32) == []
    assert menu.find(FullAttention(heads=4, head_dim=8), 64) == []
