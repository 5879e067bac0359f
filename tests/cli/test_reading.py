"""What reads a study: status, pareto, export; their formats, exit codes and errors."""

import csv
import io
import json
import re
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from hybridsearch.cli import show
from hybridsearch.export import native
from hybridsearch.objectives import OBJECTIVES
from hybridsearch.spec.canonical import content_hash

Cli = Callable[..., Any]


def table(text: str) -> list[dict[str, str]]:
    return list(csv.DictReader(io.StringIO(text)))


def test_without_a_store_status_says_what_to_do(cli: Cli) -> None:
    result = cli("status")
    assert (result.code, result.out, result.err.count("\n")) == (2, "", 1)
    assert "run a search first" in result.err
    assert not Path("runs").exists()


def test_studies_are_listed_in_every_format(cli: Cli, searched: Any) -> None:
    plain = cli("status")
    rows = json.loads(cli("status", "--format", "json").out)
    assert plain.out.splitlines()[1].split()[:2] == ["try", "idle"]
    assert [(row["study"], row["trials"], row["waiting"]) for row in rows] == [("try", 9, 0)]
    assert table(cli("status", "-f", "csv").out)[0]["finished"] == str(rows[0]["finished"])


def test_a_study_is_shown_with_counts_budget_front_and_reasons(cli: Cli, searched: Any) -> None:
    text = cli("status", "try", "--events", "30").out
    facts = json.loads(cli("status", "try", "--events", "3", "--format", "json").out)
    assert "6 of 6 trials" in text
    assert f"{facts['counts']['finished']} finished" in text
    assert "rung 0: rank" in text
    assert len(facts["events"]) == 3
    assert facts["events"][-1]["event"] == "end"
    assert sum(facts["counts"].values()) == len(facts["trials"]) == 9
    assert facts["hypervolume"] > 0


def test_trials_come_as_csv_with_their_metrics(cli: Cli, searched: Any) -> None:
    rows = table(cli("status", "try", "--format", "csv").out)
    assert [row["trial"] for row in rows] == [str(number) for number in range(9)]
    finished = [row for row in rows if row["state"] == "finished"]
    assert all(0 < float(row["recall"]) < 1 for row in finished)


def test_a_study_with_failures_counts_them_by_reason(
    cli: Cli, evaluate_with: Callable[..., None], evaluators: dict[str, Any]
) -> None:
    evaluate_with(evaluators["failing"])
    cli("search", "try.yaml", "--budget", "1trials")
    assert "4 failed: out of memory" in cli("status", "try").out
    assert cli("pareto", "try").out == "no trial of try has finished yet\n"


def test_the_front_dominates_every_other_finished_trial(cli: Cli, searched: Any) -> None:
    front = json.loads(cli("pareto", "try", "--format", "json").out)
    everything = json.loads(cli("pareto", "try", "--all", "--format", "json").out)
    assert {row["trial"] for row in everything if row["on_front"]} == {row["trial"] for row in front}
    for row in everything:
        better = [
            f
            for f in front
            if f["recall"] >= row["recall"] and f["decode_tokens_per_second"] >= row["decode_tokens_per_second"]
        ]
        assert better or row["on_front"]
    assert [row["recall"] for row in front] == sorted((row["recall"] for row in front), reverse=True)


def test_the_table_of_the_front_has_the_numbers_of_the_json(cli: Cli, searched: Any) -> None:
    front = json.loads(cli("pareto", "try", "--format", "json").out)
    lines = cli("pareto", "try").out.splitlines()
    for row, line in zip(front, lines[1:], strict=False):
        words = [word for word in line.split() if word != row["control"]]
        assert words[:2] == [f"#{row['trial']}", f"{row['recall']:.3f}"]
        assert words[-1] == row["name"]
    assert lines[-1].startswith(f"{len(front)} of ")


@pytest.mark.parametrize(("name", "start"), [("front.html", b"<!"), ("front.png", b"\x89PNG")])
def test_the_front_is_drawn_into_a_file(cli: Cli, searched: Any, name: str, start: bytes) -> None:
    result = cli("pareto", "try", "--plot", name)
    assert result.code == 0
    assert Path(name).read_bytes()[: len(start)].lower() == start.lower()
    assert f"wrote {name}" in result.err and name not in result.out


@pytest.mark.parametrize(
    ("name", "said"), [("front.gif", "does not end in .html"), ("no/front.png", "cannot be written")]
)
def test_a_figure_that_cannot_be_drawn_is_one_line(cli: Cli, searched: Any, name: str, said: str) -> None:
    result = cli("pareto", "try", "--plot", name)
    assert (result.code, result.err.count("\n")) == (2, 1)
    assert said in result.err


def test_an_export_reads_back_as_the_architecture_that_was_picked(cli: Cli, searched: Any) -> None:
    front = json.loads(cli("pareto", "try", "--format", "json").out)
    for choice, row in (("recall", front[0]), ("throughput", front[-1]), (front[0]["hash"][:8], front[0])):
        result = cli("export", "try", "--pick", choice, "--out", "best.yaml")
        assert (result.code, result.out) == (0, "best.yaml\n")
        assert content_hash(native.read(Path("best.yaml"))) == row["hash"]
    exported = native.read_all(Path("best.yaml"))
    assert exported.metrics is not None and exported.provenance is not None
    assert exported.metrics["recall"].value == pytest.approx(front[0]["recall"], rel=1e-5)
    assert exported.provenance.study == "try"


def test_an_export_writes_over_its_own_files_alone(cli: Cli, searched: Any) -> None:
    Path("book.yaml").write_text("once: upon a time\n")
    for words, said in (
        (["--out", "book.yaml"], "book.yaml exists and is no export"),
        (["--out", "-", "--card"], "give that one a name with --out FILE"),
        (["--out", "best.md", "--card"], "the card would be written over best.md"),
    ):
        result = cli("export", "try", *words)
        assert (result.code, result.out, result.err.count("\n")) == (2, "", 1)
        assert said in result.err
    assert Path("book.yaml").read_text() == "once: upon a time\n"
    for pick in ("recall", "throughput"):
        assert cli("export", "try", "--pick", pick, "--out", "best.yaml").code == 0
    assert cli("export", "try", "--pick", "throughput", "--out", "-").out == Path("best.yaml").read_text()


def test_an_export_goes_to_the_study_or_to_the_screen_and_may_bring_a_card(cli: Cli, searched: Any) -> None:
    written = [Path(line) for line in cli("export", "try", "--card").out.splitlines()]
    assert [path.suffix for path in written] == [".yaml", ".md"]
    assert written[0].parent == Path("runs/try/exports").absolute()
    assert "## Against the controls" in written[1].read_text()
    assert cli("export", "try", "--out", "-").out == written[0].read_text()


@pytest.mark.parametrize("words", [["--pick", "nobody"], ["--pick", "00"], ["--out", "try.yaml/best.yaml"]])
def test_an_export_that_cannot_be_is_one_line(cli: Cli, searched: Any, words: list[str]) -> None:
    result = cli("export", "try", *words)
    assert (result.code, result.out, result.err.count("\n")) == (2, "", 1)


@pytest.mark.parametrize("verb", ["status", "pareto", "export", "resume"])
def test_a_damaged_store_is_one_line_in_every_verb(cli: Cli, verb: str) -> None:
    Path("runs").mkdir()
    Path("runs/hybridsearch.db").write_bytes(b"this is no database" * 100)
    result = cli(verb, "try")
    assert (result.code, result.out, result.err.count("\n")) == (2, "", 1)
    assert "not a SQLite database" in result.err


@pytest.mark.parametrize("verb", ["status", "pareto", "export", "resume"])
def test_an_unknown_study_is_one_line_that_names_the_nearest(cli: Cli, searched: Any, verb: str) -> None:
    result = cli(verb, "trie")
    assert (result.code, result.out, result.err.count("\n")) == (2, "", 1)
    assert "no study `trie`" in result.err and "nearest: try" in result.err


@pytest.mark.parametrize("columns", ["80", "40"])
def test_a_narrow_terminal_breaks_no_number(
    columns: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    row = {"trial": 7, "control": "three_to_one", "recall": 0.5, "decode_tokens_per_second": 123456.0, "hash": "a" * 64}
    row |= {"parameters": 1234567, "state_bytes": 7654321, "name": "gla1.(full1+gdn3)1.delta1.swa1-a3e6011a"}
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True)
    monkeypatch.setenv("COLUMNS", columns)
    monkeypatch.setenv("NO_COLOR", "1")
    objectives = [OBJECTIVES["recall"], OBJECTIVES["decode_tokens_per_second"]]
    show.listing([row], show.point_columns(objectives), show.Format.TABLE)
    lines = re.sub(r"\x1b\[\d*m", "", capsys.readouterr().out).splitlines()
    for whole in ("#7", "three_to_one", "0.500", "123,456", "1,234,567", "7,654,321"):
        assert any(whole in line for line in lines), whole
    if columns == "80":
        assert max(map(len, lines)) <= 80
        assert "parameters" in "\n".join(lines)
