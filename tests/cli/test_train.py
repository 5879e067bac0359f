"""Training an exported architecture through the command line, a few steps of it."""

import os
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from hybridsearch.training import language

Cli = Callable[..., Any]
ARCHITECTURE = """
width: 16
layers:
  - mixer: {kind: gated_delta, heads: 2, head_dim: 4}
    feed_forward: 16
  - mixer: {kind: full, heads: 2, head_dim: 8}
    feed_forward: 16
"""
SHORT = ("--steps", "4", "--batch", "2", "--context", "16")


@pytest.fixture
def book(cli: Cli) -> None:
    """An architecture and two texts."""
    Path("tiny.yaml").write_text(ARCHITECTURE)
    for number in (1, 2):
        Path(f"book{number}.txt").write_text(f"This is book {number}, and it repeats itself. " * 40)


def test_it_trains_resumes_and_writes(cli: Cli, book: None) -> None:
    trained = cli("train", "tiny.yaml", "--data", "book1.txt", "book2.txt", *SHORT)
    assert (trained.code, trained.out.count("\n")) == (0, 1)
    assert "step 4, best validation loss" in trained.out
    assert "step 4/4  loss" in trained.err
    folder = Path("runs/trained/tiny")
    assert (folder / "best.safetensors").is_file()
    assert cli("train", "tiny.yaml", "--resume", "--steps", "6").out.startswith(f"{folder.absolute()}: step 6")
    prompted = [cli("train", "tiny.yaml", "--prompt", "This is", "--tokens", "8").out for _ in range(2)]
    assert prompted[0] == prompted[1]
    assert prompted[0].startswith("This is") and len(prompted[0]) > len("This is\n")


def test_out_takes_the_run_elsewhere_and_keeps_two_apart(cli: Cli, book: None) -> None:
    assert cli("train", "tiny.yaml", "--data", "book1.txt", "--out", "mine", *SHORT, "-q").err == ""
    assert Path("mine/last.safetensors").is_file()
    again = cli("train", "tiny.yaml", "--data", "book1.txt", "--out", "mine", *SHORT)
    assert (again.code, again.out, again.err.count("\n")) == (2, "", 1)
    assert "resume it, or choose another folder" in again.err


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ([], "nothing to do"),
        (["--data", "nowhere.txt"], "nowhere.txt: no such file"),
        (["--data", "book1.txt", "--device", "tpu"], "device `tpu` is not known"),
        (["--data", "book1.txt", "--steps", "0"], "steps 0 is below 1"),
        (["--prompt", "x"], "no training run here"),
        (["--resume"], "no training run here to go on with; begin one with --data"),
        (["--data", "book1.txt", "--context", "100000"], ""),
    ],
)
def test_what_is_wrong_is_one_line(cli: Cli, book: None, words: list[str], said: str) -> None:
    result = cli("train", "tiny.yaml", *words)
    assert (result.code, result.out, result.err.count("\n")) == (2, "", 1)
    assert said in result.err


def test_ctrl_c_says_how_the_run_goes_on_where_it_is(cli: Cli, book: None, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(*arguments: Any, on_update: Any, stop: Callable[[], bool], **options: Any) -> Any:
        os.kill(os.getpid(), signal.SIGINT)
        assert stop()
        return language.Result(folder=Path("mine"), step=3, finished=False, last=None, best=None)

    monkeypatch.setattr(language, "train", interrupted)
    for words, again in ((["--out", "my run"], " --out 'my run'"), (["--root", "there"], " --root there")):
        result = cli("train", "tiny.yaml", "--data", "book1.txt", *words)
        assert result.code == 130
        assert f"go on with:  hybridsearch train tiny.yaml --resume{again}" in result.err


def test_a_file_that_is_no_architecture_is_named(cli: Cli, book: None) -> None:
    result = cli("train", "book1.txt", "--data", "book2.txt")
    assert (result.code, result.out, result.err.count("\n")) == (2, "", 1)
    assert "book1.txt" in result.err
