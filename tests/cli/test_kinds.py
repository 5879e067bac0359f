"""A file of one kind given where another is meant."""

import json
import sqlite3
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

Cli = Callable[..., Any]


@pytest.fixture
def files(cli: Cli) -> None:
    """A search, its space and an architecture, each in a file of its own."""
    Path("search.yaml").write_text(Path("try.yaml").read_text())
    Path("space.yaml").write_text(yaml.safe_dump(yaml.safe_load(Path("try.yaml").read_text())["space"]))
    layer = {"mixer": {"kind": "full", "heads": 2, "head_dim": 8}, "feed_forward": 16}
    Path("architecture.yaml").write_text(yaml.safe_dump({"width": 16, "layers": [layer]}))


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (
            ["search", "space.yaml"],
            "space.yaml: describes a space, not a search; `hybridsearch spaces show space.yaml`",
        ),
        (["search", "architecture.yaml"], "architecture.yaml: describes an architecture, not a search"),
        (["search", "quickstart", "-o", "space=search.yaml"], "search.yaml: describes a search, not a space"),
        (
            ["spaces", "check", "search.yaml"],
            "describes a search, not a space; `hybridsearch search search.yaml` runs it",
        ),
        (["spaces", "sample", "architecture.yaml"], "describes an architecture, not a space"),
        (["bench", "space.yaml"], "describes a space, not an architecture"),
        (["bench", "full", "--space", "architecture.yaml"], "describes an architecture, not a space"),
        (["train", "search.yaml", "--data", "try.yaml"], "describes a search, not an architecture"),
        (["search", "tiny"], "`tiny` is a space, not a search; `hybridsearch search quickstart` searches it"),
        (["spaces", "show", "quickstart"], "`quickstart` is a search, not a space; its space is `tiny`"),
    ],
)
def test_a_file_of_another_kind_is_told_from_a_wrong_one(cli: Cli, files: None, words: list[str], said: str) -> None:
    result = cli(*words)
    assert (result.code, result.out, result.err.count("\n")) == (2, "", 1)
    assert said in result.err


def test_each_kind_is_taken_where_it_is_meant(cli: Cli, files: None) -> None:
    for words in (
        ["search", "search.yaml", "--dry-run"],
        ["spaces", "check", "space.yaml"],
        ["bench", "architecture.yaml", "--contexts", "8", "--batches", "1", "--decode", "1", "--repeats", "3"],
    ):
        assert cli(*words).code == 0


def test_an_export_names_the_machine_and_the_versions_of_its_numbers(cli: Cli, searched: Any) -> None:
    facts = json.dumps({"cpu": "Z80", "threads": 1, "torch": "0.1"})
    versions = json.dumps({"torch": "0.1"})
    with sqlite3.connect("runs/hybridsearch.db") as store:
        store.execute("UPDATE reports SET device = ?", (facts,))
        store.execute("UPDATE studies SET versions = ?", (versions,))
    told = yaml.safe_load(cli("export", "try", "--out", "-").out)["provenance"]
    assert (told["device"], told["versions"]) == ("Z80, 1 thread, torch 0.1", {"torch": "0.1"})


def test_an_exported_file_is_measured_and_trained_whatever_its_name(cli: Cli, searched: Any) -> None:
    assert cli("export", "try", "--out", "best.arch").code == 0
    small = ("--contexts", "8", "--batches", "1", "--decode", "1", "--repeats", "3")
    assert "best.arch" in cli("bench", "best.arch", *small).out
    Path("book.txt").write_text("once upon a time " * 40)
    trained = cli("train", "best.arch", "--data", "book.txt", "--steps", "1", "--batch", "1", "--context", "16")
    assert trained.code == 0, trained.err
