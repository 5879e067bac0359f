"""Combinators counted by hand, and the rules of their numbers; tests/models compares the counts with built models."""

from typing import Any

import pytest
from pydantic import ValidationError

from hybridsearch.spec.combinators import HeadSplit, Mixer, TokenRoute, value_width
from hybridsearch.spec.hgrn import Hgrn
from hybridsearch.spec.kimi_delta import KimiDelta
from hybridsearch.spec.mixers import Delta, FullAttention, GatedDelta, GatedLinear, SlidingWindow

SOFTMAX = FullAttention(heads=4, head_dim=4, value_head_dim=6)
LINEAR = GatedDelta(heads=2, head_dim=8, value_head_dim=12)
ROUTE = TokenRoute(softmax=SOFTMAX, linear=LINEAR, chunk=16)
FIXED = ROUTE.model_copy(update={"routing": "periodic", "share": 0.25})


def with_(**changes: Any) -> TokenRoute:
    return TokenRoute.model_validate({**ROUTE.model_dump(), **changes})


def test_head_splits_add_up() -> None:
    split = HeadSplit(branches=(SOFTMAX, LINEAR, SlidingWindow(heads=2, head_dim=6, window=8)))
    assert split.value_width == 24 + 24 + 12
    assert split.parameters(32) == sum(branch.parameters(32) for branch in split.branches) + 60
    bare = split.model_copy(update={"normalise": False})
    assert split.parameters(32) - bare.parameters(32) == 60
    assert split.state_bytes(100) == sum(branch.state_bytes(100) for branch in split.branches)
    assert split.flops_per_token(32, 100) == sum(branch.flops_per_token(32, 100) for branch in split.branches)


@pytest.mark.parametrize(
    ("mixer", "expected"),
    [
        (SOFTMAX, 24),
        (SlidingWindow(heads=3, head_dim=6, window=8), 18),
        (GatedDelta(heads=2, value_heads=4, head_dim=8, value_head_dim=3), 12),
        (Delta(heads=2, head_dim=8), 16),
        (GatedLinear(heads=2, head_dim=8, value_head_dim=3), 6),
        (KimiDelta(heads=2, head_dim=8, value_head_dim=5), 10),
        (Hgrn(heads=3, head_dim=8), 24),
        (ROUTE, 24),
        (HeadSplit(branches=(ROUTE, SOFTMAX)), 48),
    ],
)
def test_value_widths(mixer: Mixer, expected: int) -> None:
    assert value_width(mixer) == expected


def test_parameters_of_token_routing_by_hand() -> None:
    width = 32
    projections = width * (16 + 16 + 24 + 24 + 2 + 2)
    shared = projections + 4 * (16 + 16 + 24) + 2 * 2 + 24 * width
    router, mix = width * 2 * 2, 16 * 2 * 4
    assert ROUTE.parameters(width) == shared + 2 * 4 + router + mix + 2 * 6
    assert with_(scope="layer").parameters(width) == ROUTE.parameters(width) - width * 2
    assert with_(score="mean_max").parameters(width) == ROUTE.parameters(width) + router
    assert with_(score="last").parameters(width) == ROUTE.parameters(width)
    assert with_(mix="scalar").parameters(width) == ROUTE.parameters(width) - mix + 2 * 4
    assert with_(mix="sum").parameters(width) == ROUTE.parameters(width) - mix
    assert with_(branch_norm=False).parameters(width) == ROUTE.parameters(width) - 2 * 6
    assert FIXED.parameters(width) == ROUTE.parameters(width) - router


def test_memory_of_token_routing_by_hand() -> None:
    """100 tokens are 6 chunks of 16 and 4 tokens; a token's keys and values of both heads are 40 elements."""
    states = (2 * 2 * 8 * 12 + 2) * 4
    tail, router = 3 * (16 + 16 + 24) * 2, 4 * 4
    least = states + tail + router + 4 * 40 * 2
    assert ROUTE.state_bytes(100, share=0.0) == least
    assert ROUTE.state_bytes(100, share=1.0) == ROUTE.state_bytes(100) == least + 6 * 16 * 40 * 2 + 12 * 8
    assert ROUTE.state_bytes(100, share=0.25) == least + 3 * (16 * 20 * 2 + 8)
    assert ROUTE.state_bytes(96, share=0.0) == states + tail + router
    assert with_(score="last").state_bytes(100) == ROUTE.state_bytes(100) - router
    assert with_(score="mean_max").state_bytes(100) == ROUTE.state_bytes(100) + router
    assert FIXED.state_bytes(100) == ROUTE.state_bytes(100, share=1 / 6) - router  # one chunk of six
    delta = with_(linear=Delta(heads=2, head_dim=8, value_head_dim=12).model_dump())
    assert delta.state_bytes(100) == ROUTE.state_bytes(100) - 2 * 4


def test_flops_of_token_routing_by_hand() -> None:
    """The step sees the kept chunks, the 4 tokens of the open chunk and its own."""
    linear = LINEAR.flops_per_token(32, 0)
    extra = 2 * (32 * 4 + 16 * 8)
    assert ROUTE.flops_per_token(32, 100) == linear + extra + 2 * (96 + 5) * 40
    assert ROUTE.flops_per_token(32, 100, share=0.0) == linear + extra + 2 * 5 * 40
    assert with_(own_chunk="linear").flops_per_token(32, 100, share=0.0) == linear + extra
    assert with_(own_chunk="softmax").flops_per_token(32, 100) == ROUTE.flops_per_token(32, 100) + 2 * 2 * 8 * 12
    assert FIXED.flops_per_token(32, 100) == linear + 2 * 16 * 8 + 2 * (16 + 5) * 40


@pytest.mark.parametrize("routing", ["periodic", "first", "random"])
@pytest.mark.parametrize("share", [0.0, 0.1, 0.25, 1 / 3, 0.5, 0.7, 1.0])
def test_fixed_controls_keep_their_share_at_every_length(routing: str, share: float) -> None:
    description = with_(routing=routing, share=share)
    types = description.fixed_types(200)
    for head in range(2):
        for chunks in range(1, 201):
            assert abs(sum(row[head] for row in types[:chunks]) - share * chunks) <= 1
    assert types[:30] == description.fixed_types(30)  # what comes later does not change a chunk's type


def test_fixed_controls_differ_in_where() -> None:
    def kept(routing: str, **changes: Any) -> list[list[int]]:
        types = with_(routing=routing, share=0.25, **changes).fixed_types(16)
        return [[chunk for chunk in range(16) if types[chunk][head]] for head in range(2)]

    assert kept("periodic") == [[3, 7, 11, 15]] * 2
    assert kept("first") == [[0, 4, 8, 12]] * 2
    first, second = kept("random")
    assert first != second
    assert [chunk // 4 for chunk in first] == [chunk // 4 for chunk in second] == [0, 1, 2, 3]
    first, second = kept("random", scope="layer")
    assert first == second


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"routing": "periodic"}, "'periodic' needs a share"),
        ({"share": 0.5}, "'learned' takes no share"),
        ({"softmax": FullAttention(heads=3, head_dim=4).model_dump()}, "softmax heads 3 is not a multiple"),
        ({"softmax": FullAttention(heads=4, head_dim=8).model_dump()}, "softmax keys 4x8 differ"),
        ({"softmax": FullAttention(heads=4, head_dim=4).model_dump()}, "softmax values 4x4 differ"),
        (
            {"softmax": SOFTMAX.model_copy(update={"gate": True}).model_dump()},
            "leave kv_heads, short_conv and gate out",
        ),
        (
            {"linear": {"kind": "gated_delta", "heads": 2, "value_heads": 4, "head_dim": 8}},
            "value_heads equal to heads",
        ),
        ({"chunk": 3}, "greater than or equal to 4"),
    ],
)
def test_numbers_that_do_not_fit_each_other_are_refused(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        with_(**changes)
