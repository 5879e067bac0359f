"""A small table with a known front, and raw records as the generator writes them."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from hybridsearch.errors import FailureReason
from hybridsearch.search_spaces import catalog
from hybridsearch.settings import EvaluationSettings, RungSettings
from hybridsearch.spec import cost
from hybridsearch.spec.architecture import Architecture
from hybridsearch.spec.canonical import canonical_json, content_hash, readable_name
from hybridsearch.tabular.table import About, Run, Table
from hybridsearch.trial import Candidate, Measurement, Report

EVALUATION = EvaluationSettings(rungs=RungSettings(steps=(10, 30)))


def candidate(architecture: Architecture) -> Candidate:
    return Candidate(
        hash=content_hash(architecture),
        canonical=canonical_json(architecture),
        name=readable_name(architecture),
        parameters=cost.parameters(architecture),
        state_bytes=cost.state_bytes(architecture, 4096),
        flops_per_token=cost.flops_per_token(architecture, 4096),
    )


def report(rung: int, recall: float, speed: float) -> Report:
    decode = Measurement(
        phase="decode", context=4096, batch=8, tokens_per_second=speed, low=speed - 1, high=speed + 1, repeats=7
    )
    metrics = {"recall": recall, "answer_loss": 1 - recall, "decode_tokens_per_second": speed}
    steps = EVALUATION.rungs.steps[rung]
    return Report(
        trial=0, rung=rung, steps=steps, metrics=metrics, measurements=(decode,), seconds=rung + 0.5, device="a machine"
    )


@pytest.fixture(scope="session")
def architectures() -> tuple[Architecture, ...]:
    listing = catalog.load("tiny").listing
    assert listing is not None
    return listing[:4]


@pytest.fixture(scope="session")
def about() -> About:
    return About(
        space=catalog.document("tiny", Path()).data,
        evaluation=EVALUATION,
        objectives=("recall", "decode_tokens_per_second"),
        machines=("a machine",),
        versions={"hybridsearch": "0"},
        commit="abc",
        sources=("first",),
    )


@pytest.fixture
def table(about: About, architectures: tuple[Architecture, ...]) -> Table:
    """Four candidates: two on the front, one dominated, one that failed; the first has two seeds."""
    best, fast, worse, broken = (content_hash(a) for a in architectures)
    runs = (
        Run(hash=best, seed=0, reports=(report(0, 0.5, 10.0), report(1, 0.8, 10.0))),
        Run(hash=best, seed=1, reports=(report(0, 0.5, 10.0), report(1, 1.0, 10.0))),
        Run(hash=fast, seed=0, reports=(report(0, 0.2, 50.0), report(1, 0.3, 50.0))),
        Run(hash=worse, seed=0, reports=(report(0, 0.1, 9.0), report(1, 0.2, 9.0))),
        Run(
            hash=broken, seed=0, reports=(report(0, 0.1, 9.0),), failure=FailureReason.NOT_A_NUMBER, message="loss nan"
        ),
    )
    return Table(about=about, candidates={c.hash: c for c in map(candidate, architectures)}, runs=runs)


@pytest.fixture
def write_records(tmp_path: Path, architectures: tuple[Architecture, ...]) -> Callable[..., Path]:
    """Writes a file of records of two seeds; `lines` come behind them."""

    def write(*lines: str, lost: float = 0.5) -> Path:
        header = {"header": 1, "machine": {"gpu": "G", "torch": "2"}, "space": catalog.document("tiny", Path()).data}
        records: list[dict[str, Any]] = [{**header, "evaluation": EVALUATION.model_dump(mode="json")}]
        for number, architecture in enumerate(architectures[:2]):
            scores = [[{"recall": 0.1, "answer_loss": 3.0}] * 2, [{"recall": 0.5, "answer_loss": lost}] * 2]
            records.append(
                {
                    "hash": content_hash(architecture),
                    "architecture": canonical_json(architecture),
                    "scores": scores,
                    "decode_tokens_per_second": [99.0, 100.0 + number, 105.0],
                    "train_step_seconds": [0.01, 0.02, 0.03],
                    "cache_bytes": 640.0,
                    "softmax_share": None,
                }
            )
        path = tmp_path / "records.jsonl"
        path.write_text("\n".join([*map(json.dumps, records), *lines]))
        return path

    return write
