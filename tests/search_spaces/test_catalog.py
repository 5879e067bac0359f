import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from hybridsearch.errors import InvalidFile, InvalidSetting
from hybridsearch.search_spaces import catalog, size
from hybridsearch.search_spaces.describe import describe
from hybridsearch.yaml_files import Document, dump, read


def test_presets_are_described() -> None:
    found = catalog.presets()
    assert set(found) == {"tiny", "layers", "heads", "tokens", "full"}
    assert all(len(text) > 20 for text in found.values())


def test_a_space_is_found_by_name_path_and_value(tmp_path: Path, menu: Mapping[str, Any]) -> None:
    data = {"depth": 2, "width": 16, "mixers": menu}
    (tmp_path / "mine.yaml").write_text(dump(data))
    given = catalog.load(data)
    assert catalog.load("mine.yaml", tmp_path) == given
    assert catalog.load(tmp_path / "mine.yaml") == given
    assert catalog.load("tiny", tmp_path) == catalog.load("tiny")
    assert catalog.document("mine.yaml", tmp_path).data == catalog.document(data).data == data


@pytest.mark.parametrize("name", ["tiny", "layers", "heads", "tokens", "full"])
def test_a_space_survives_json(name: str) -> None:
    space = catalog.load(name)
    assert catalog.load(json.loads(space.model_dump_json())) == space


def test_unknown_names_are_refused_with_the_nearest() -> None:
    with pytest.raises(InvalidSetting, match="no space is called 'tny'; did you mean 'tiny'"):
        catalog.load("tny")
    with pytest.raises(InvalidSetting, match="no space is called 'qqq'; known: full, heads, layers, tiny, tokens"):
        catalog.load("qqq")


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(InvalidFile, match=r"absent\.yaml: no such file"):
        catalog.load("absent.yaml", tmp_path)


def test_a_space_given_in_place_has_keys_but_no_lines(menu: Mapping[str, Any]) -> None:
    with pytest.raises(InvalidFile) as refused:
        catalog.load({"depth": 2, "width": 16, "mixers": {**menu, "gdn": {"kind": "gated_delta", "haed_dim": 4}}})
    assert str(refused.value).startswith("space: `mixers.gdn.haed_dim`: unknown key; known here: gate, head_dim, heads")


def test_a_space_inside_a_study_has_the_lines_of_its_file(tmp_path: Path) -> None:
    path = tmp_path / "study.yaml"
    path.write_text("study: a\nspace:\n  depth: 2\n  widht: 16\n")
    document = read(path)
    with pytest.raises(InvalidFile, match=r"study\.yaml, line 4: `widht`: unknown key"):
        catalog.load(document.section("space"))
    with pytest.raises(InvalidFile, match=r"study\.yaml, line 1: `study`: expected keys and values"):
        document.section("study")


def test_a_list_in_place_of_keys_is_refused() -> None:
    text = "depth: 2\nwidth: 16\nmixers:\n  full: {head_dim: 8}\n  delta: {head_dim: 8}\nreference:\n  - 3\n"
    with pytest.raises(InvalidFile, match=r"x, line 6: `reference`: expected keys and values"):
        catalog.load(Document(text, "x"))


def test_the_description_shows_what_is_searched() -> None:
    space = catalog.load("layers")
    rows = dict(describe(space))
    assert rows["depth"] == "4 | 5 | 6 | 7 | 8 | 9 | 10 | 11 | 12"
    assert rows["mixer sliding"].startswith("sliding: heads fill, head_dim 32, window 64 | 128, sinks 0 | 4")
    assert "at 7:1 | 3:1 | 2:1 | 1:1 | 1:0 | 0:1, placed uniform | first" in rows["or a pattern"]
    assert rows["architectures"] == f"at most {size.count(space).architectures:.1e}"
    assert f"{space.target:,} parameters" in rows["control full"]
    assert {"control full", "control linear", "control three_to_one"} <= set(rows)


def test_constraints_are_shown(menu: Mapping[str, Any]) -> None:
    limits = {"full_layers": {"minimum": 1}, "state_bytes": {"context": 99, "minimum": 1, "maximum": 90000}}
    layers = {"not_first": "full"}
    space = catalog.load({"depth": 2, "width": 16, "mixers": menu, "constraints": limits, "layers": layers})
    rows = dict(describe(space))
    assert rows["full layers"] == "at least 1"
    assert rows["state bytes at 99 tokens"] == "at least 1, at most 90,000"
    assert rows["not first"] == "full"
    assert rows["architectures"] == str(space.size())
    assert "bytes of state at 99 tokens" in rows["control full"]
