"""What looks at the machine: bench, doctor, ui."""

import csv
import io
import json
import socket
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from hybridsearch.cli import running, ui
from hybridsearch.cli.session import Session

Cli = Callable[..., Any]
SMALL = ("--contexts", "16,32", "--batches", "1,2", "--decode", "2", "--repeats", "3", "--vocabulary", "64")


def test_bench_measures_every_phase_and_shape_of_every_architecture(cli: Cli, searched: Any) -> None:
    cli("export", "try", "--pick", "recall", "--out", "best.yaml")
    result = cli("bench", "best.yaml", "try:full", "linear", *SMALL, "--format", "csv")
    rows = list(csv.DictReader(io.StringIO(result.out)))
    assert result.code == 0
    assert len(rows) == 3 * 2 * 2 * 2
    assert {row["label"] for row in rows} == {"best.yaml", "try:full", "linear"}
    assert all(float(row["low"]) <= float(row["tokens_per_second"]) <= float(row["high"]) for row in rows)
    last = [row for row in rows if row["cache_bytes"]]
    assert {(row["phase"], row["context"]) for row in last} == {("decode", "32")}
    assert result.err.startswith("measuring best.yaml, try:full, linear on ")


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["nothing"], "not a control of space tiny (full, linear, three_to_one)"),
        (["nowhere:full"], "no study `nowhere`"),
        (["no.yaml"], "no.yaml: no such file"),
        (["full", "--contexts", "a"], "`--contexts a` is not understood"),
        (["full", "--precision", "int4"], "precision `int4` is not known"),
    ],
)
def test_what_cannot_be_measured_is_one_line(cli: Cli, searched: Any, words: list[str], said: str) -> None:
    result = cli("bench", *words)
    assert (result.code, result.out, result.err.count("\n")) == (2, "", 1)
    assert said in result.err


def test_a_healthy_machine_gets_no_fail(cli: Cli) -> None:
    result = cli("doctor", "--format", "json")
    found = json.loads(result.out)
    assert result.code == 0
    assert {"ok", "warn"} >= {finding["level"] for finding in found}
    assert {"python", "torch", "ray", "gpu", "causal attention", "folder", "store"} <= {f["what"] for f in found}
    assert not Path("runs").exists()


def test_what_is_broken_fails_with_a_remedy_and_ends_with_two(cli: Cli) -> None:
    Path("damaged.db").write_bytes(b"this is no database" * 100)
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        address = f"http://127.0.0.1:{taken.getsockname()[1]}"
        result = cli("--store", "sqlite:///damaged.db", "doctor", "--tracking", address, "--format", "json")
    failed = {f["what"]: f for f in json.loads(result.out) if f["level"] == "fail"}
    assert result.code == 2
    assert set(failed) == {"store", "tracking"}
    assert "choose another path" in failed["store"]["found"]
    assert failed["tracking"]["remedy"]


def test_doctor_prints_one_line_per_finding(cli: Cli) -> None:
    lines = cli("doctor").out.splitlines()
    assert all(line.split()[0] in ("ok", "warn", "fail", "->") for line in lines)


def test_ui_tells_the_error_of_a_server_that_ends_not_its_last_line() -> None:
    log = io.BytesIO(b"Traceback\nsqlalchemy.exc.OperationalError: read-only\n[SQL: x]\n(Background on this at: y)\n")
    assert ui._last_line(log) == "sqlalchemy.exc.OperationalError: read-only"
    assert ui._last_line(io.BytesIO(b"gone\n\n")) == "gone"
    assert ui._last_line(io.BytesIO()) == "it said nothing"


def test_ui_refuses_a_taken_port_a_missing_database_and_no_tracking(cli: Cli) -> None:
    assert "switched off" in cli("ui").err
    Path("m.db").write_bytes(b"")
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = str(taken.getsockname()[1])
        result = cli("ui", "--tracking", f"sqlite:///{Path('m.db').absolute()}", "--port", port)
    assert (result.code, result.err.count("\n")) == (2, 1)
    assert f"port {port} is taken" in result.err
    assert "no such file" in cli("ui", "--tracking", "sqlite:////nowhere/m.db").err


@pytest.mark.parametrize("uri", ["ftp://x", "mlruns", "sqlite:mlflow.db", "://", "http//host:5000"])
def test_what_is_no_tracking_uri_is_refused_before_anything_starts(cli: Cli, uri: str) -> None:
    for verb in (["search", "try.yaml"], ["ui"], ["doctor"]):
        result = cli(*verb, "--tracking", uri)
        assert (result.code, result.out, result.err.count("\n")) == (2, "", 1)
        assert f"tracking URI `{uri}` is not understood; write sqlite:///" in result.err
    assert not Path("runs").exists()


def test_a_server_of_ones_own_is_named_as_the_place_to_look(capsys: pytest.CaptureFixture[str]) -> None:
    for tracking, said in (
        ("http://me:secret@host:5000", "look at it:     http://me:***@host:5000    (MLflow)"),
        ("sqlite:///m.db", "look at it:     hybridsearch ui --tracking sqlite:///m.db"),
        (None, "look at it:     hybridsearch ui    (MLflow"),
    ):
        running._next_commands(Session(tracking=tracking), "try", mlflow=True)
        assert capsys.readouterr().out.startswith(said)
