"""What all verbs share: help, shared options, exit codes, one line per error, and a fast start."""

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from hybridsearch import __main__ as entry
from hybridsearch import __version__
from hybridsearch.cli import main
from hybridsearch.errors import ClusterUnreachable, Infeasible, UnknownStudy

Cli = Callable[..., Any]
VERBS = ("search", "resume", "status", "pareto", "export", "train", "bench", "doctor", "ui", "spaces", "table")


def program(*words: str, cwd: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "hybridsearch", *words]
    return subprocess.run(
        command, cwd=cwd, env={**os.environ, **environment}, capture_output=True, text=True, timeout=120, check=False
    )


@pytest.mark.parametrize(
    "words", [[verb] for verb in VERBS] + [["spaces", v] for v in ("list", "show", "check", "sample")]
)
def test_every_verb_explains_itself_with_examples(cli: Cli, words: list[str]) -> None:
    result = cli(*words, "--help")
    assert result.code == 0
    assert f"Usage: hybridsearch {' '.join(words)}" in result.out
    assert f"\n    hybridsearch {words[0]}" in result.out


def test_the_version_and_an_empty_command_line(cli: Cli) -> None:
    assert cli("--version").out == f"hybridsearch {__version__}\n"
    assert main.run([]) == 2


@pytest.mark.parametrize("words", [["frobnicate"], ["search"], ["status", "--format", "xml"], ["status", "a", "b"]])
def test_a_wrong_command_line_is_one_line_that_points_to_the_help(cli: Cli, words: list[str]) -> None:
    result = cli(*words)
    assert (result.code, result.out, result.err.count("\n")) == (2, "", 1)
    assert result.err.startswith("error: ") and "--help`" in result.err


def test_what_is_wrong_with_a_value_is_said_without_the_words_of_a_library(cli: Cli) -> None:
    for words, said in (
        (["status", "--events", "-1"], "'--events': must be at least 0"),
        (["status", "--events", "x"], "'--events': expected a whole number"),
        (["train", "a.yaml", "--temperature", "x"], "'--temperature': expected a number"),
        (["ui", "--port", "70000"], "'--port': must be at most 65535"),
        (["status", "--format", "xml"], "'xml' is not one of 'table', 'json', 'csv'"),
        (["status", "--root"], "option --root needs a value; see `hybridsearch --help`"),
        (["--store"], "option --store needs a value"),
    ):
        result = cli(*words)
        assert (result.code, result.err.count("\n")) == (2, 1)
        assert said in result.err and "Input" not in result.err and "Value error" not in result.err


def test_shared_options_stand_before_or_after_the_verb() -> None:
    shared, rest = main.hoist(["status", "--root", "a", "-o", "x=1", "--store=b", "-v", "--", "-q"])
    assert shared == ["--root", "a", "--store=b", "-v"]
    assert rest == ["status", "-o", "x=1", "--", "-q"]


def test_the_root_is_taken_from_the_environment(
    cli: Cli, searched: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    Path("runs").rename("elsewhere")
    monkeypatch.setenv("HYBRIDSEARCH_ROOT", str(tmp_path / "elsewhere"))
    assert "try" in cli("status").out
    monkeypatch.setenv("HYBRIDSEARCH_STORE", f"sqlite:///{tmp_path}/elsewhere/hybridsearch.db")
    assert "try" in cli("status", "--root", "nowhere").out


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (UnknownStudy("no\nstudy"), 2),
        (Infeasible("no way"), 3),
        (ClusterUnreachable("nobody there"), 2),
        (ValueError("what\nis this"), 1),
    ],
)
def test_every_error_ends_in_one_line_and_its_code(
    cli: Cli, monkeypatch: pytest.MonkeyPatch, error: Exception, code: int
) -> None:
    def broken(self: object) -> None:
        raise error

    monkeypatch.setattr("hybridsearch.cli.session.Session.open_store", broken)
    result = cli("status")
    assert (result.code, result.out, result.err.count("\n")) == (code, "", 1)
    assert result.err.startswith("error: ")
    assert ("run again with -v" in result.err) == (code == 1)
    assert "Traceback" in cli("status", "-v").err


def test_ctrl_c_ends_with_130_and_no_words(cli: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(self: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("hybridsearch.cli.session.Session.open_store", interrupted)
    assert (cli("status").code, cli("status").err) == (130, "")


def test_ctrl_c_while_the_program_loads_is_no_traceback(monkeypatch: pytest.MonkeyPatch) -> None:
    class Loading(ModuleType):
        def __getattr__(self, name: str) -> Any:
            raise KeyboardInterrupt

    monkeypatch.setitem(sys.modules, "hybridsearch.cli.main", Loading("loading"))
    with pytest.raises(SystemExit) as ended:
        entry.main()
    assert ended.value.code == 130


def test_no_verb_is_cut_short_in_the_list_of_verbs(cli: Cli) -> None:
    for words in ([], ["spaces"], ["table"]):
        assert "..." not in cli(*words, "--help").out.split("Commands:")[1]


def test_help_and_status_load_nothing_heavy(tmp_path: Path) -> None:
    code = (
        "import sys; from hybridsearch.cli.main import run; run(sys.argv[1:]);"
        "print(' '.join({m.split('.')[0] for m in sys.modules}), file=sys.stderr)"
    )
    heavy = {"torch", "ray", "mlflow", "optuna", "alembic", "plotly", "matplotlib"}
    for words, also in ((["--help"], {"sqlalchemy", "pydantic", "numpy", "rich"}), (["status"], set())):
        done = subprocess.run(
            [sys.executable, "-c", code, *words], cwd=tmp_path, capture_output=True, text=True, timeout=60, check=True
        )
        loaded = set(done.stderr.splitlines()[-1].split())
        assert not loaded & (heavy | also)


def test_results_are_alone_on_standard_output_and_plain_in_a_pipe(searched: Any, tmp_path: Path) -> None:
    done = program("status", "try", "--format", "json", cwd=tmp_path)
    assert (done.returncode, done.stderr) == (0, "")
    assert json.loads(done.stdout)["study"] == "try"
    assert "\x1b" not in program("status", "try", cwd=tmp_path).stdout


def test_a_pipe_that_closes_early_is_no_error(searched: Any, tmp_path: Path) -> None:
    command = f"{sys.executable} -m hybridsearch status try --format csv | true"
    done = subprocess.run(
        ["bash", "-c", command], cwd=tmp_path, capture_output=True, text=True, timeout=60, check=False
    )
    assert done.stderr == ""


def test_a_full_disk_and_a_closed_output_are_said_plainly(searched: Any, tmp_path: Path) -> None:
    for redirection, code, said in (("> /dev/full", 1, "standard output goes to is full"), (">&-", 0, "")):
        command = f"{sys.executable} -m hybridsearch status try --format json {redirection}"
        done = subprocess.run(
            ["bash", "-c", command], cwd=tmp_path, capture_output=True, text=True, timeout=60, check=False
        )
        assert (done.returncode, done.stderr.count("\n")) == (code, code)
        assert said in done.stderr


def test_where_nobody_hears_what_is_said_the_work_goes_on(searched: Any, tmp_path: Path) -> None:
    for number, redirection in enumerate(("2> /dev/full", "2>&-", "2> >(true)")):
        command = f"{sys.executable} -m hybridsearch export try --out {number}.yaml {redirection}"
        done = subprocess.run(["bash", "-c", command], cwd=tmp_path, capture_output=True, timeout=60, check=False)
        assert (done.returncode, done.stdout.decode()) == (0, f"{number}.yaml\n")


def test_letters_that_the_encoding_has_not_are_written_by_number(cli: Cli, tmp_path: Path) -> None:
    text = (tmp_path / "try.yaml").read_text().replace("\nspace:", "").replace("\n  ", "\n").split("budget")[0]
    (tmp_path / "mine.yaml").write_text(f"description: zwei Gänge – schön{text}", encoding="utf-8")
    done = program("spaces", "show", "mine.yaml", cwd=tmp_path, PYTHONIOENCODING="ascii")
    assert (done.returncode, done.stderr) == (0, "")
    assert "zwei G\\xe4nge \\u2013 sch\\xf6n" in done.stdout


def test_an_address_where_nobody_listens_is_one_line(tmp_path: Path) -> None:
    done = program("--tracking", "none", "-q", "search", "quickstart", "--address", "127.0.0.1:9", cwd=tmp_path)
    assert (done.returncode, done.stdout, done.stderr.count("\n")) == (2, "", 1)
    assert "no Ray cluster at `127.0.0.1:9`" in done.stderr
    assert "no study yet" in program("status", cwd=tmp_path).stdout
