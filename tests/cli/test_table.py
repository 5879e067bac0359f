"""Tables from studies, shown, and searched again on a simulated clock, through the real command line."""

import json
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from hybridsearch.cli.main import run
from hybridsearch.db.store import Store, default_url
from hybridsearch.trial import Evaluator, Job
from hybridsearch.workers.replay import evaluator

Cli = Callable[..., Any]
REPLAY = ("search", "try.yaml", "--replay", "all.parquet", "--workers", "3")


def study(cli: Cli, name: str) -> dict[str, Any]:
    facts: dict[str, Any] = json.loads(cli("status", name, "--format", "json").out)
    return facts


def trials(name: str) -> list[tuple[Any, ...]]:
    """What a search decided and when, counted from its start."""
    with Store.open(default_url(Path("runs")), create=False) as store:
        found = store.trials(name)
        begun = store.study(name).created
    # Unix seconds of float64 are good to a microsecond
    times = [(round(t.created - begun, 4), round((t.ended or begun) - begun, 4)) for t in found]
    return [(t.number, t.candidate.hash, t.state.value, *own) for t, own in zip(found, times, strict=True)]


@pytest.fixture
def table(cli: Cli, tmp_path: Path) -> Path:
    """The table of a search without stopping: 23 candidates, controls among them."""
    assert cli("search", "try.yaml", "--budget", "20trials", "-o", "stopping='off'", "-o", "sampler=random").code == 0
    built = cli("table", "build", "try", "--output", "all.parquet")
    assert built.code == 0, built.err
    assert "wrote all.parquet: 23 candidates, 23 runs" in built.err
    return tmp_path / "all.parquet"


@pytest.mark.usefixtures("table")
def test_show_counts_and_names_the_best_front(cli: Cli) -> None:
    shown = cli("table", "show", "all.parquet")
    assert shown.code == 0
    assert "candidates" in shown.out and "25, 50, 100" in shown.out and "best front: " in shown.out
    found = json.loads(cli("table", "show", "all.parquet", "--format", "json").out)
    assert found["facts"]["candidates"] == 23
    assert found["facts"]["failed_runs"] == found["facts"]["incomplete_runs"] == 0
    recalls = [row["recall"] for row in found["front"]]
    assert max(recalls) == next(row["most"] for row in found["ranges"] if row["metric"] == "recall")


@pytest.mark.usefixtures("table")
def test_a_replay_keeps_to_the_table_and_equal_seeds_give_equal_searches(cli: Cli) -> None:
    for name, seed in (("a", "5"), ("b", "5"), ("c", "6")):
        result = cli(*REPLAY, "--study", name, "--seed", seed, "--budget", "12trials")
        assert result.code == 0, result.err
    a, b, c = (trials(name) for name in "abc")
    assert a == b
    assert a != c
    assert {row[1] for row in a} <= {trial["hash"] for trial in study(cli, "try")["trials"]}
    assert any(row[2] == "stopped" for row in a)


@pytest.mark.usefixtures("table")
def test_three_workers_take_a_third_of_the_simulated_time(cli: Cli) -> None:
    """Every rung takes a second: 23 candidates of three rungs are 69 s of work."""
    ends = {}
    for workers in ("1", "3"):
        result = cli(
            *REPLAY, "--workers", workers, "--study", f"w{workers}", "-o", "stopping='off'", "--budget", "99trials"
        )
        assert result.code == 0, result.err
        rows = trials(f"w{workers}")
        assert len(rows) == 23
        ends[workers] = max(row[4] for row in rows)
    assert ends == {"1": 69.0, "3": 24.0}


@pytest.mark.usefixtures("table")
def test_a_budget_of_minutes_is_simulated(cli: Cli) -> None:
    result = cli(*REPLAY, "--workers", "1", "--budget", "0.2m", "-o", "stopping='off'", "--study", "m")
    assert result.code == 0, result.err
    assert len(trials("m")) == 4  # of 3 s each: the fifth would begin at 12 s


@pytest.mark.usefixtures("table")
def test_an_interrupted_replay_goes_on(cli: Cli, monkeypatch: pytest.MonkeyPatch) -> None:

    def interrupting(table: Any) -> Evaluator:
        def evaluate(job: Job) -> Any:
            if job.trial == 8:
                signal.raise_signal(signal.SIGINT)
            return evaluator(table)(job)

        return evaluate

    monkeypatch.setattr("hybridsearch.control.replay.evaluator", interrupting)
    first = cli(*REPLAY, "--study", "i", "--budget", "15trials")
    assert first.code == 130
    assert "hybridsearch resume i" in first.err
    monkeypatch.setattr("hybridsearch.control.replay.evaluator", evaluator)
    before = trials("i")
    assert any(row[2] == "paused" for row in before)
    resumed = cli("resume", "i")
    assert resumed.code == 0, resumed.err
    after = trials("i")
    assert len(after) == 18
    assert all(row[2] in ("finished", "stopped") for row in after)
    assert [row[1] for row in after[: len(before)]] == [row[1] for row in before]
    assert max(row[4] for row in after) > max(row[4] for row in before)


@pytest.mark.usefixtures("table")
def test_a_study_that_searched_a_table_makes_no_table(cli: Cli) -> None:
    assert cli(*REPLAY, "--study", "r", "--budget", "2trials").code == 0
    result = cli("table", "build", "r", "--output", "r.parquet")
    assert (result.code, result.err.count("\n")) == (2, 1)
    assert "all.parquet and trained nothing; name that table instead" in result.err
    assert not Path("r.parquet").exists()


@pytest.mark.usefixtures("table")
def test_a_dry_run_over_a_table_writes_nothing_and_searches_the_same_when_saved(cli: Cli) -> None:
    shown = cli(*REPLAY, "--root", "elsewhere", "--dry-run")
    assert shown.code == 0
    assert not Path("elsewhere").exists()
    Path("exact.yaml").write_text(shown.out)
    assert cli("search", "exact.yaml", "--dry-run").out == shown.out


@pytest.mark.usefixtures("table")
def test_a_replay_speaks_of_no_workers_and_of_no_option_that_was_not_given(capsys: pytest.CaptureFixture[str]) -> None:
    capsys.readouterr()
    assert run([*REPLAY, "--study", "quiet", "--budget", "2trials"]) == 0
    said = capsys.readouterr()
    assert "search quiet: looking results up in a table" in said.err
    assert said.out.splitlines()[-1] == "take the knee:  hybridsearch export quiet --pick knee --out best.yaml"
    assert "hybridsearch ui" not in said.out


@pytest.mark.usefixtures("table")
def test_wrong_replays_are_refused_in_one_line(cli: Cli, tmp_path: Path) -> None:
    (tmp_path / "text.parquet").write_text("no table")
    for words, said in (
        (("--replay", "nowhere.parquet"), "is no file"),
        (("--replay", "all.parquet", "-o", "constraints.recal.minimum=1"), "did you mean `recall`?"),
        (("--replay", "text.parquet"), "is no Parquet file"),
        (("--replay", "all.parquet", "--address", "auto"), "needs no --address"),
        (("--replay", "all.parquet", "-o", "constraints={parameters: {maximum: 1}}"), "loosen"),
    ):
        result = cli("search", "try.yaml", *words)
        assert result.code in (2, 3)
        assert said in result.err.splitlines()[-1]
        assert len(result.err.splitlines()) == 1
    assert not any("try-2" in row for row in cli("status").out.splitlines())


def test_wrong_builds_are_refused_in_one_line(cli: Cli, searched: Any, tmp_path: Path) -> None:
    other = tmp_path / "other.yaml"
    other.write_text((tmp_path / "try.yaml").read_text().replace("[25, 50, 100]", "[20, 40]"))
    assert cli("search", "other.yaml").code == 0
    (tmp_path / "empty.jsonl").write_text("")
    for words, said in (
        (("try", "--output", "a.csv"), "does not end in .parquet"),
        (("nobody", "--output", "a.parquet"), "no study `nobody`"),
        (("try", "other", "--output", "a.parquet"), "differ in their evaluation"),
        (("empty.jsonl", "--output", "a.parquet"), "holds no records"),
        (("try", "--output", "no/such/a.parquet"), "cannot be written"),
    ):
        result = cli("table", "build", *words)
        assert result.code == 2
        assert said in result.err
        assert len(result.err.splitlines()) == 1
    assert not list(tmp_path.glob("*.parquet*"))


def test_trials_that_stopped_or_took_numbers_over_do_not_count_as_complete(cli: Cli, searched: Any) -> None:
    cli("search", "try.yaml", "--study", "stops", "-o", "stopping=stop", "--budget", "12trials")
    stopped = sum(trial["state"] == "stopped" for trial in study(cli, "stops")["trials"])
    assert stopped > 0
    cli("table", "build", "stops", "--output", "s.parquet")
    facts = json.loads(cli("table", "show", "s.parquet", "--format", "json").out)["facts"]
    assert facts["incomplete_runs"] == stopped


def test_tables_are_joined_and_a_run_that_is_in_two_is_told(cli: Cli, table: Path) -> None:
    assert (
        cli("search", "try.yaml", "--study", "more", "--seed", "9", "--budget", "4trials", "-o", "stopping='off'").code
        == 0
    )
    joined = cli("table", "build", str(table), "more", "--output", "larger.parquet")
    assert joined.code == 0, joined.err
    counted = json.loads(cli("table", "show", "larger.parquet", "--format", "json").out)["facts"]["runs"]
    assert counted > json.loads(cli("table", "show", "all.parquet", "--format", "json").out)["facts"]["runs"]
    twice = cli("table", "build", str(table), "larger.parquet", "--output", "twice.parquet")
    assert twice.code == 2 and "is in the table twice" in twice.err
