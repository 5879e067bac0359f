"""A small study: three finished trials over recall and decode throughput, one of them a control."""

from collections.abc import Callable, Sequence

import pytest

from hybridsearch.objectives import OBJECTIVES, Objective
from hybridsearch.reporting.points import Point, point
from hybridsearch.spec.architecture import Architecture, Layer
from hybridsearch.spec.canonical import canonical_json, content_hash, readable_name
from hybridsearch.spec.mixers import FullAttention, GatedDelta
from hybridsearch.trial import Candidate, Measurement, Report

MakeCandidate = Callable[[str], Candidate]
MakeReports = Callable[[int, float, float], list[Report]]


@pytest.fixture
def objectives() -> Sequence[Objective]:
    return (OBJECTIVES["recall"], OBJECTIVES["decode_tokens_per_second"])


@pytest.fixture
def make_candidate() -> MakeCandidate:
    """A candidate from a pattern: f is full attention, g gated delta."""

    def make(pattern: str) -> Candidate:
        kinds = {"f": FullAttention(heads=2, head_dim=8), "g": GatedDelta(heads=2, head_dim=8)}
        layers = tuple(Layer(mixer=kinds[kind], feed_forward=32) for kind in pattern)
        architecture = Architecture(width=16, layers=layers)
        return Candidate(
            hash=content_hash(architecture), canonical=canonical_json(architecture), name=readable_name(architecture),
            parameters=1000, state_bytes=2000, flops_per_token=3000,
        )  # fmt: skip

    return make


@pytest.fixture
def make_reports() -> MakeReports:
    """Two rungs of a trial; throughput is measured at the first only, as workers do."""

    def make(number: int, recall: float, throughput: float) -> list[Report]:
        measurement = Measurement(
            phase="decode", context=4096, batch=8, tokens_per_second=throughput, low=0.9 * throughput,
            high=1.1 * throughput, repeats=7,
        )  # fmt: skip
        early = {"recall": recall / 2, "answer_loss": 2.0, "recall/64x8": recall, "recall/256x64": recall / 2}
        late = {**early, "recall": recall, "answer_loss": 1.0}
        seeds = {"recall": (recall - 0.05, recall + 0.04)}
        first = {**early, "decode_tokens_per_second": throughput}
        return [
            Report(trial=number, rung=0, steps=250, metrics=first, measurements=(measurement,), device="test machine"),
            Report(trial=number, rung=1, steps=500, metrics=late, replicates=seeds, seconds=3.0),
        ]

    return make


@pytest.fixture
def points(make_candidate: MakeCandidate, make_reports: MakeReports) -> list[Point]:
    return [
        point(0, make_candidate("ff"), make_reports(0, 0.9, 1000.0), on_front=True, control="full"),
        point(1, make_candidate("gg"), make_reports(1, 0.3, 9000.0), on_front=True),
        point(2, make_candidate("fg"), make_reports(2, 0.25, 800.0), on_front=False),
    ]
