"""The examples of docs/store.md run, and give what they promise."""

import re
import sqlite3
from collections.abc import Callable
from pathlib import Path

import pytest

from hybridsearch.db.faults import POSTGRESQL_FAULTS, SQLITE_FAULTS
from hybridsearch.db.store import Event, Store
from hybridsearch.trial import Candidate, Report, TrialState

TEXT = (Path(__file__).parents[2] / "docs" / "store.md").read_text(encoding="utf-8")


def example(language: str) -> str:
    found = re.search(rf"```{language}\n(.*?)```", TEXT, re.DOTALL)
    assert found is not None
    return found[1]


@pytest.fixture
def database(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    candidate: Callable[..., Candidate],
    report: Callable[..., Report],
) -> Path:
    """`runs/hybridsearch.db` with one finished and one stopped trial; the working folder is above it."""
    monkeypatch.chdir(tmp_path)
    with Store.open("sqlite:///runs/hybridsearch.db") as store:
        store.create_study("recall", "{}", seed=1, space_json="{}", versions={})
        for number in range(2):
            store.add_trial("recall", candidate(number), sampler="random", seed=1)
            store.add_report("recall", report(number, 0, 0.25))
        store.record("recall", report(0, 1, 0.75), state=TrialState.FINISHED)
        stop = Event(kind="stopped", rung=0, rank=3, message="rank 3 of 4")
        store.set_state("recall", 1, TrialState.STOPPED, event=stop)
    return tmp_path / "runs" / "hybridsearch.db"


def test_the_sql_examples(database: Path, candidate: Callable[..., Candidate]) -> None:
    with sqlite3.connect(database) as connection:
        by_state, by_recall, stops = (
            connection.execute(statement).fetchall() for statement in example("sql").split(";\n")[:3]
        )
    connection.close()
    assert sorted(by_state) == [("finished", 1), ("stopped", 1)]
    assert by_recall == [(0, candidate(0).name, 0.75, None)]
    assert [row[1:] for row in stops] == [(1, 0, 3, "rank 3 of 4")]


def test_the_python_example(
    database: Path, candidate: Callable[..., Candidate], capsys: pytest.CaptureFixture[str]
) -> None:
    exec(compile(example("python"), "docs/store.md", "exec"), {})
    assert capsys.readouterr().out == f"0 {candidate(0).name} 0.75\n"


def test_the_table_of_messages_quotes_real_ones() -> None:
    sources = (Path(__file__).parents[2] / "db").glob("*.py")
    said = " ".join([*SQLITE_FAULTS.values(), *POSTGRESQL_FAULTS.values(), *(path.read_text() for path in sources)])
    quoted = [row.split("|")[1] for row in TEXT.split("|---|---|\n")[-1].splitlines() if row.startswith("|")]
    assert len(quoted) == 9
    for message in (part.strip() for quote in quoted for part in quote.split(";")):
        assert message in said
