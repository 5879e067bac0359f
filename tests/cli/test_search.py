"""Starting, resuming and previewing searches through the real command line."""

import json
import os
import signal
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from hybridsearch.search_spaces import catalog, ready_made
from hybridsearch.search_spaces.controls import controls
from hybridsearch.settings import SearchSettings
from hybridsearch.trial import Evaluator, Job, Report

Cli = Callable[..., Any]


def study(cli: Cli, name: str = "try") -> dict[str, Any]:
    facts: dict[str, Any] = json.loads(cli("status", name, "--format", "json").out)
    return facts


def test_a_search_ends_with_its_front_and_the_next_commands(searched: Any) -> None:
    lines = searched.out.splitlines()
    assert lines[0].startswith("front of try: ")
    assert "recall" in lines[2] and "decode tokens/s" in lines[2]
    assert lines[-1] == "take the knee:  hybridsearch export try --pick knee --out best.yaml --tracking none"
    assert "finished: rung 2: rank 1 of" in searched.err


def test_a_budget_in_trials_is_kept_and_controls_come_on_top(cli: Cli) -> None:
    cli("search", "try.yaml", "--budget", "2trials")
    trials = study(cli)["trials"]
    assert [trial["control"] for trial in trials] == ["full", "linear", "three_to_one", None, None]


def test_quiet_says_nothing_but_the_result(cli: Cli) -> None:
    result = cli("search", "try.yaml", "-q")
    assert result.err == ""
    assert result.out.startswith("front of try")


def test_equal_seeds_try_equal_architectures_and_other_seeds_do_not(cli: Cli) -> None:
    for name, seed in (("a", "1"), ("b", "1"), ("c", "2")):
        assert cli("search", "try.yaml", "--study", name, "--seed", seed).code == 0
    a, b, c = ([trial["hash"] for trial in study(cli, name)["trials"]] for name in "abc")
    assert a == b
    assert a != c


def test_a_second_search_of_the_same_file_takes_the_next_name(cli: Cli, searched: Any) -> None:
    assert cli("search", "try.yaml").out.startswith("front of try-2")
    given = cli("search", "try.yaml", "--study", "try")
    assert given.code == 2
    assert "study `try` exists already" in given.err


def test_options_reach_the_recorded_settings(cli: Cli) -> None:
    options = ("-o", "sampler=random", "-o", "evaluation.training.batch=32", "--workers", "3", "--seed", "5")
    assert cli("search", "try.yaml", *options).code == 0
    written = yaml.safe_load(Path("runs/try/settings.yaml").read_text())
    assert written["sampler"] == "random"
    assert written["evaluation"]["training"]["batch"] == 32
    assert written["workers"]["count"] == 3
    assert written["seed"] == 5
    assert written["space"]["mixers"]["full"]["heads"] == 2


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["-o", "evaluation.trainng.batch=3"], "`-o evaluation.trainng.batch=3`: `evaluation.trainng`: unknown key"),
        (["-o", "evaluation.training.batch=0"], "option `-o evaluation.training.batch=0`"),
        (["-o", "sampler"], "write `-o key=value`"),
        (["-o", "sampler=[1"], "option `-o sampler=[1`: `[1` is not a YAML value"),
        (["--study", "a b"], "`study`: use letters, digits"),
        (["-o", "space=3"], "`space`: expected text or keys and values, found 3"),
        (["-o", "objectives=[recall, speed]"], "`objectives`: unknown objective 'speed'"),
        (["-o", "constraints.recal.minimum=1"], "`constraints.recal`: unknown key; known here: answer_loss"),
        (["-o", "constraints.recall/64x9.minimum=1"], "did you mean `recall/64x8`?"),
        (["-o", "constraints.recall/64x8.minimum=0.1"], None),
        (
            ["-o", "space.mixers.full.kind=ful"],
            "option `-o space.mixers.full.kind=ful`: `mixers.full`: unknown kind 'ful'",
        ),
        (["-o", "budget=many"], "`budget`: expected keys and values, found 'many'"),
        (["-o", "evaluation.training.bacth=1"], "did you mean `batch`?"),
        (["--budget", "20"], None),
        (["--budget", "5x"], "budget `5x` is not understood"),
        (["--study", "a/b"], "option `--study a/b`"),
        (["--seed", "-1"], "--seed"),
        (["--workers", "0"], "--workers"),
        (["-o", "space=nowhere"], "no space is called 'nowhere'"),
    ],
)
def test_what_is_wrong_with_an_option_is_said_in_one_line(cli: Cli, words: list[str], said: str | None) -> None:
    result = cli("search", "try.yaml", *words, "--dry-run")
    assert result.code == (0 if said is None else 2)
    if said is not None:
        assert result.err.count("\n") == 1
        assert said in result.err
        assert result.out == ""


def test_a_wrong_file_is_named_with_its_line(cli: Cli) -> None:
    Path("wrong.yaml").write_text("space: tiny\nbudget:\n  trails: 3\n")
    result = cli("search", "wrong.yaml")
    assert (result.code, result.err.count("\n")) == (2, 1)
    assert "wrong.yaml, line 3: `budget.trails`: unknown key" in result.err


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "wrong.yaml, line 1: `space`: missing"),
        ("- space", "expected keys and values, found list"),
        ("space: [1", "not valid YAML"),
        ("space: tiny\n---\nspace: tiny", "expected a single document in the stream, but found another document"),
        ("space: !!python/object/apply:os.system [true]", "could not determine a constructor for the tag"),
        ("space: &a {x: *a}", "a value refers to itself"),
        ("space: " + "[" * 3000, "nested too deeply"),
        ("space: tiny\nseed: .nan", "line 2: `seed`: expected a finite number"),
        (
            "a0: &a0 [1, 1, 1, 1, 1, 1, 1, 1, 1, 1]\n"
            + "".join(f"a{n + 1}: &a{n + 1} [{', '.join([f'*a{n}'] * 10)}]\n" for n in range(8)),
            "more than 100,000 values",
        ),
    ],
)
def test_yaml_that_is_no_search_is_one_line(cli: Cli, text: str, said: str) -> None:
    Path("wrong.yaml").write_text(text)
    result = cli("search", "wrong.yaml")
    assert (result.code, result.out, result.err.count("\n")) == (2, "", 1)
    assert said in result.err


def test_a_wrong_space_inside_a_search_is_named_with_its_line(cli: Cli) -> None:
    text = Path("try.yaml").read_text().replace("heads: 2, head_dim: 8", "haeds: 2, head_dim: 8")
    Path("try.yaml").write_text(text)
    result = cli("search", "try.yaml")
    assert result.code == 2
    assert "try.yaml, line 6: `space.mixers.full.haeds`" in result.err or "`mixers.full.haeds`" in result.err


def test_a_space_is_found_from_the_file_that_names_it_and_from_here_on_the_command_line(cli: Cli) -> None:
    settings = yaml.safe_load(Path("try.yaml").read_text())
    Path("there").mkdir()
    Path("there/my-space.yaml").write_text(yaml.safe_dump(settings["space"]))
    Path("there/named.yaml").write_text(yaml.safe_dump({**settings, "space": "my-space.yaml"}))
    assert cli("search", "there/named.yaml", "--dry-run").code == 0
    assert cli("search", "quickstart", "-o", "space=there/my-space.yaml", "--dry-run").code == 0
    assert "my-space.yaml: no such file" in cli("search", "quickstart", "-o", "space=my-space.yaml", "--dry-run").err


def test_impossible_constraints_end_with_three(cli: Cli) -> None:
    for words in (["-o", "constraints.parameters.maximum=10"], ["-o", "space.constraints.parameters.maximum=10"]):
        result = cli("search", "try.yaml", "--study", words[1].split(".")[0], *words)
        assert (result.code, result.out) == (3, "")
        assert [line.startswith("error: ") for line in result.err.splitlines()].count(True) == 1
        assert "parameters" in result.err.splitlines()[-1]


def test_a_read_only_folder_is_said_before_anything_starts(cli: Cli) -> None:
    Path("file").write_text("")
    result = cli("search", "try.yaml", "--root", "file/runs")
    assert (result.code, result.err.count("\n")) == (2, 1)
    assert "cannot be made" in result.err


def test_a_search_in_which_everything_fails_says_so(
    cli: Cli, evaluate_with: Callable[[Evaluator], None], evaluators: dict[str, Evaluator]
) -> None:
    evaluate_with(evaluators["failing"])
    result = cli("search", "try.yaml", "--budget", "1trials")
    assert result.code == 1
    assert "no trial finished, 4 failed" in result.err
    assert study(cli)["counts"] == {"failed: out of memory": 4}


def test_an_interrupted_search_ends_with_130_and_resumes_to_the_same_trials(
    cli: Cli, evaluate_with: Callable[[Evaluator], None], evaluators: dict[str, Evaluator]
) -> None:
    def interrupting(job: Job) -> Iterator[Report]:
        if job.trial == 3:
            os.kill(os.getpid(), signal.SIGINT)
        yield from evaluators["fake"](job)

    assert cli("search", "try.yaml", "--study", "whole").code == 0
    evaluate_with(interrupting)
    stopped = cli("search", "try.yaml")
    assert stopped.code == 130
    assert "hybridsearch resume try" in stopped.err
    evaluate_with(evaluators["fake"])
    assert cli("resume", "try").code == 0
    whole, halved = ([t["hash"] for t in study(cli, name)["trials"]] for name in ("whole", "try"))
    assert halved == whole


def test_resume_takes_a_larger_budget_and_refuses_a_study_that_is_not_there(cli: Cli, searched: Any) -> None:
    assert cli("resume", "try", "--budget", "8trials").code == 0
    assert len(study(cli)["trials"]) == 11
    unknown = cli("resume", "tri")
    assert (unknown.code, unknown.err.count("\n")) == (2, 1)
    assert "no study `tri`" in unknown.err and "nearest: try" in unknown.err


def test_resuming_what_has_used_up_its_budget_says_so(cli: Cli, searched: Any) -> None:
    again = cli("resume", "try")
    assert again.code == 0
    assert "nothing new was tried: 6 of 6 trials are done or under way" in again.err
    assert "hybridsearch resume try --budget 12trials" in again.err
    assert "--budget 8trials" in cli("resume", "try", "--budget", "2trials").err
    assert "nothing new" not in cli("resume", "try", "--budget", "7trials").err


def test_a_second_ctrl_c_says_how_to_go_on(
    cli: Cli, evaluate_with: Callable[[Evaluator], None], evaluators: dict[str, Evaluator]
) -> None:
    def stopping(job: Job) -> Iterator[Report]:
        if job.trial == 2:
            raise KeyboardInterrupt
        yield from evaluators["fake"](job)

    evaluate_with(stopping)
    result = cli("search", "try.yaml", "--root", "there")
    assert (result.code, result.out) == (130, "")
    assert "interrupted; go on with:  hybridsearch resume try --root there --tracking none" in result.err
    evaluate_with(evaluators["fake"])
    assert cli("resume", "try", "--root", "there").code == 0


def test_a_dry_run_shows_the_plan_and_writes_nothing(cli: Cli) -> None:
    result = cli("search", "try.yaml", "--dry-run", "--seed", "3")
    assert result.code == 0
    settings, _, rest = result.out.partition("# space:")
    assert yaml.safe_load(settings)["seed"] == 3
    assert " architectures" in rest and "three_to_one" in rest and "sample 5" in rest
    assert "25 -> 50 -> 100 optimiser steps" in rest
    assert not Path("runs").exists()


def test_a_dry_run_is_a_file_that_searches_the_same_from_anywhere(cli: Cli, searched: Any) -> None:
    Path("there").mkdir()
    Path("my-space.yaml").write_text(yaml.safe_dump(yaml.safe_load(Path("try.yaml").read_text())["space"]))
    for words in (["try.yaml"], ["try.yaml", "-o", "space=my-space.yaml"], ["quickstart", "--seed", "5"]):
        first = cli("search", *words, "--dry-run").out
        Path("there/exact.yaml").write_text(first)
        assert cli("search", "there/exact.yaml", "--dry-run").out == first
    Path("there/exact.yaml").write_text(cli("search", "try.yaml", "--dry-run").out)
    assert cli("search", "there/exact.yaml").code == 0
    assert [t["hash"] for t in study(cli, "exact")["trials"]] == [t["hash"] for t in study(cli)["trials"]]


@pytest.mark.parametrize("name", sorted(ready_made.searches()))
def test_every_ready_made_search_reads_and_has_controls(name: str) -> None:
    document = ready_made.read(name)
    settings = document.validate(SearchSettings)
    assert isinstance(settings.space, str)
    assert set(controls(catalog.load(settings.space))) == {"full", "linear", "three_to_one"}


def test_an_unknown_search_names_the_nearest(cli: Cli) -> None:
    result = cli("search", "quickstrat")
    assert (result.code, result.err.count("\n")) == (2, 1)
    assert "did you mean 'quickstart'?" in result.err


def test_stopping_may_be_switched_off_without_quotes(cli: Cli) -> None:
    result = cli("search", "try.yaml", "-o", "stopping=off", "--dry-run")
    assert result.code == 0, result.err
    assert "stopping: 'off'" in result.out
