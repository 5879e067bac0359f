"""Fronts to pick from, and an architecture to write."""

from collections.abc import Callable, Sequence

import pytest

from hybridsearch.objectives import OBJECTIVES, Objective
from hybridsearch.reporting.points import Point, Spread
from hybridsearch.spec.architecture import Architecture, Layer
from hybridsearch.spec.canonical import canonical_json, content_hash, readable_name
from hybridsearch.spec.combinators import HeadSplit
from hybridsearch.spec.mixers import FullAttention, GatedDelta, SlidingWindow


@pytest.fixture
def objectives() -> Sequence[Objective]:
    return (OBJECTIVES["recall"], OBJECTIVES["decode_tokens_per_second"])


@pytest.fixture
def architecture() -> Architecture:
    full, delta = FullAttention(heads=2, head_dim=8), GatedDelta(heads=2, head_dim=8)
    split = HeadSplit(branches=(full, SlidingWindow(heads=1, head_dim=8, window=16)))
    layers = [Layer(mixer=mixer, feed_forward=32) for mixer in (delta, delta, full, split)]
    return Architecture(width=16, layers=tuple(layers))


@pytest.fixture
def make_point() -> Callable[..., Point]:
    def make(
        trial: int, recall: float, throughput: float, *, on_front: bool = True, control: str | None = None
    ) -> Point:
        architecture = Architecture(
            width=16, layers=(Layer(mixer=GatedDelta(heads=2, head_dim=8), feed_forward=trial + 1),)
        )
        values = {"recall": recall, "decode_tokens_per_second": throughput, "recall/64x8": recall}
        return Point(
            trial=trial, hash=content_hash(architecture), name=readable_name(architecture),
            canonical=canonical_json(architecture), parameters=100, state_bytes=200, flops_per_token=300,
            metrics={n: Spread(value=v, low=0.9 * v, high=1.1 * v, count=3) for n, v in values.items()},
            on_front=on_front, control=control,
        )  # fmt: skip

    return make
