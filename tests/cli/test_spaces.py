"""Spaces through the command line."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from hybridsearch.search_spaces import catalog
from hybridsearch.spec.canonical import parse

Cli = Callable[..., Any]


def test_every_preset_is_listed_with_its_searches(cli: Cli) -> None:
    rows = json.loads(cli("spaces", "list", "--format", "json").out)
    assert {row["space"] for row in rows} == set(catalog.presets())
    assert next(row["searches"] for row in rows if row["space"] == "tiny") == "quickstart"
    assert "Layer hybrids" in cli("spaces", "list").out


def test_a_space_is_shown_with_its_size_and_controls(cli: Cli) -> None:
    shown = json.loads(cli("spaces", "show", "tiny", "--format", "json").out)
    assert {"architectures", "depth", "width", "control full", "control linear"} <= set(shown)
    assert "control three_to_one" in cli("spaces", "show", "tiny").out
    assert cli("spaces", "show", "tiny", "--format", "csv").out.startswith("property,value\n")


@pytest.mark.parametrize("name", sorted(catalog.presets()))
def test_every_preset_is_good(cli: Cli, name: str) -> None:
    result = cli("spaces", "check", name)
    assert (result.code, result.err) == (0, "")
    assert result.out.startswith(f"{name}: good, ")


def test_an_impossible_space_ends_with_three_and_a_wrong_one_with_two(cli: Cli) -> None:
    mixers = "mixers:\n  gated_delta: {heads: 2, head_dim: 8}\n  full: {heads: 2, head_dim: 16}\n"
    text = f"width: 32\ndepth: 2\n{mixers}feed_forward: {{width: 32}}\n"
    Path("none.yaml").write_text(text + "constraints: {parameters: {maximum: 10}}\n")
    Path("wrong.yaml").write_text(text.replace("head_dim: 8", "had_dim: 8"))
    none, wrong = cli("spaces", "check", "none.yaml"), cli("spaces", "check", "wrong.yaml")
    assert (none.code, none.out, none.err.count("\n")) == (3, "", 1)
    assert (wrong.code, wrong.out, wrong.err.count("\n")) == (2, "", 1)
    assert "wrong.yaml, line 4" in wrong.err


def test_samples_lie_in_the_space_and_follow_the_seed(cli: Cli) -> None:
    space = catalog.load("tiny")

    def draw(seed: str) -> Any:
        return json.loads(cli("spaces", "sample", "tiny", "--count", "3", "--seed", seed, "-f", "json").out)

    first, again, other = draw("1"), draw("1"), draw("2")
    assert [row["hash"] for row in first] == [row["hash"] for row in again] != [row["hash"] for row in other]
    for row in first:
        assert space.violations(parse(json.dumps(row["architecture"]))) == []
