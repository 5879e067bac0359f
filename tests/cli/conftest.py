"""The command line in this process, with a fake evaluator in place of Ray: a search takes milliseconds."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from hybridsearch.cli import running
from hybridsearch.cli.main import run
from hybridsearch.control import in_process
from hybridsearch.control.launch import Execute
from hybridsearch.control.loop import Controller
from hybridsearch.errors import FailureReason, TrialFailure
from hybridsearch.settings import WorkerSettings
from hybridsearch.spec import cost
from hybridsearch.spec.canonical import parse
from hybridsearch.trial import Evaluator, Job, Report

CONFIG = """
space:
  width: 32
  depth: [2, 3, 4]
  mixers:
    full: {heads: 2, head_dim: 8}
    gated_delta: {heads: 2, head_dim: [4, 8]}
  layers: {free: [full, gated_delta]}
  feed_forward: {width: [32, 64]}
budget: {trials: 6}
evaluation:
  rungs: {steps: [25, 50, 100]}
"""


@dataclass(frozen=True)
class Result:
    """What a command did."""

    code: int
    out: str
    err: str


Cli = Callable[..., Result]


def fake(job: Job) -> Iterator[Report]:
    """Full layers buy recall and cost throughput; numbers depend on the architecture alone."""
    architecture = parse(job.architecture)
    depth, full = len(architecture.layers), cost.full_layers(architecture)
    spread = int(job.hash[:4], 16) / 65536 * 1e-3
    for fidelity in job.rungs:
        recall = (0.2 + 0.7 * full / depth + spread) * (fidelity.steps / 100) ** 0.1
        metrics = {
            "recall": recall,
            "answer_loss": 5 * (1 - recall),
            "decode_tokens_per_second": 1e4 / (depth + 3 * full),
            "prefill_tokens_per_second": 1e5 / depth,
            "cache_bytes": 100.0 * full + 10,
        }
        yield Report(trial=job.trial, rung=fidelity.rung, steps=fidelity.steps, metrics=metrics, seconds=1.0)


def failing(job: Job) -> Iterator[Report]:
    """Every trial runs out of memory."""
    raise TrialFailure(FailureReason.OUT_OF_MEMORY, "asked for 3 GB, 2 GB were free")
    yield from ()


def in_this_process(evaluator: Evaluator) -> Callable[[str | None, Path], Execute]:
    """Stands for `running.executor`."""

    def execute(controller: Controller, workers: WorkerSettings) -> None:
        in_process.run(controller, evaluator)

    return lambda address, log: execute


@pytest.fixture
def evaluate_with(monkeypatch: pytest.MonkeyPatch) -> Callable[[Evaluator], None]:
    """Puts another evaluator in place."""
    monkeypatch.setattr(running, "machine", lambda settings, address: "")
    monkeypatch.setattr(running, "with_gpu", lambda settings, address: settings)
    return lambda evaluator: monkeypatch.setattr(running, "executor", in_this_process(evaluator))


@pytest.fixture
def cli(
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    evaluate_with: Callable[[Evaluator], None],
) -> Cli:
    """Runs `hybridsearch` with these words, in a folder of its own, without MLflow."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("HYBRIDSEARCH_ROOT", raising=False)
    evaluate_with(fake)
    (tmp_path / "try.yaml").write_text(CONFIG)

    def call(*words: str) -> Result:
        capsys.readouterr()
        code = run(["--tracking", "none", *words])
        said = capsys.readouterr()
        return Result(code, said.out, said.err)

    return call


@pytest.fixture
def evaluators() -> dict[str, Evaluator]:
    """`fake` works, `failing` does not."""
    return {"fake": fake, "failing": failing}


@pytest.fixture
def searched(cli: Cli) -> Result:
    """The study `try`, finished."""
    result = cli("search", "try.yaml")
    assert result.code == 0, result.err
    return result
