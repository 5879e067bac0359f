"""Counts by hand. That counts equal built models, real memories and executed products is tested in tests/models."""

import pytest

from hybridsearch.spec import cost
from hybridsearch.spec.architecture import Architecture, Layer
from hybridsearch.spec.combinators import HeadSplit, Mixer, TokenRoute
from hybridsearch.spec.hgrn import Hgrn
from hybridsearch.spec.kimi_delta import KimiDelta
from hybridsearch.spec.mixers import Delta, FullAttention, GatedDelta, GatedLinear, SlidingWindow

FULL = FullAttention(heads=4, kv_heads=2, head_dim=8, value_head_dim=16)
GDN = GatedDelta(heads=2, head_dim=8, value_head_dim=16)
SWA = SlidingWindow(heads=2, head_dim=8, window=10, sinks=2)


def of(*mixers: Mixer, feed_forward: int = 0, tied: bool = True) -> Architecture:
    layers = tuple(Layer(mixer=mixer, feed_forward=feed_forward) for mixer in mixers)
    return Architecture(width=32, layers=layers, tied_embeddings=tied)


def test_parameters_by_hand() -> None:
    projections = 32 * (4 * 8 + 2 * 8 + 2 * 16) + 4 * 16 * 32
    assert FULL.parameters(32) == projections + 2 * 8
    assert cost.parameters(of(FULL)) == FULL.parameters(32) + 32 + 32
    assert cost.parameters(of(FULL, feed_forward=5)) == cost.parameters(of(FULL)) + 3 * 5 * 32 + 32
    assert cost.parameters(of(FULL), 100) == cost.parameters(of(FULL)) + 100 * 32
    assert cost.parameters(of(FULL, tied=False), 100) == cost.parameters(of(FULL)) + 2 * 100 * 32


def test_state_bytes_by_hand() -> None:
    assert FULL.state_bytes(100) == 100 * 2 * (8 + 16) * 2
    assert FullAttention(heads=1, head_dim=8, short_conv=4).state_bytes(0) == 3 * 3 * 8 * 2
    assert SWA.state_bytes(7) == 7 * 2 * 2 * 8 * 2
    assert SWA.state_bytes(1000) == 12 * 2 * 2 * 8 * 2
    assert GDN.state_bytes(0) == GDN.state_bytes(9999) == 2 * 8 * 16 * 4 + 3 * (2 * 16 + 32) * 2
    assert GDN.state_bytes(1, element_bytes=4) == 2 * 8 * 16 * 4 + 3 * (2 * 16 + 32) * 4
    assert Hgrn(heads=2, head_dim=8, short_conv=4).state_bytes(9) == 16 * 4 + 3 * 16 * 2
    assert cost.state_bytes(of(FULL, GDN), 100) == FULL.state_bytes(100) + GDN.state_bytes(100)


def test_flops_by_hand() -> None:
    products = 32 * (4 * 8 + 2 * 8 + 2 * 16) + 4 * 16 * 32
    assert FULL.flops_per_token(32, 99) == 2 * products + 2 * 100 * 4 * (8 + 16)
    state = 2 * 8 * 16
    assert GDN.flops_per_token(32, 0) == 2 * (32 * (2 * 16 + 32 + 32 + 4) + 32 * 32) + 6 * state
    linear = GatedLinear(heads=2, head_dim=8, value_head_dim=16, decay="scalar", gate=False)
    assert linear.flops_per_token(32, 5) == 2 * (32 * (2 * 16 + 32 + 2) + 32 * 32) + 4 * state
    kimi = KimiDelta(heads=2, head_dim=8, value_head_dim=16)
    low_ranks = 16 * (32 + 16) + 16 * (32 + 32)
    assert kimi.flops_per_token(32, 5) == 2 * (32 * (2 * 16 + 32 + 2) + low_ranks + 32 * 32) + 6 * state
    assert Hgrn(heads=2, head_dim=8).flops_per_token(32, 5) == 2 * 4 * 32 * 16
    assert cost.flops_per_token(of(FULL, feed_forward=5), 9) == FULL.flops_per_token(32, 9) + 6 * 5 * 32
    assert cost.flops_per_token(of(FULL), 9, 100) == FULL.flops_per_token(32, 9) + 2 * 32 * 100


def test_attention_costs_what_it_sees() -> None:
    per_token = 2 * 2 * (8 + 8)
    assert SWA.flops_per_token(32, 5) - SWA.flops_per_token(32, 4) == per_token
    assert SWA.flops_per_token(32, 11) == SWA.flops_per_token(32, 5000)
    assert SWA.flops_per_token(32, 11) - SWA.flops_per_token(32, 10) == per_token
    assert SWA.flops_per_token(32, 12) == SWA.flops_per_token(32, 11)


SPLIT = HeadSplit(branches=(GDN, FullAttention(heads=1, head_dim=8)))
ROUTE = TokenRoute(softmax=FullAttention(heads=2, head_dim=8), linear=Delta(heads=2, head_dim=8))


@pytest.mark.parametrize(
    ("mixers", "expected"),
    [
        ((GDN, SWA), 0),
        ((FULL, GDN, FULL), 2),
        ((SPLIT, HeadSplit(branches=(GDN, SWA))), 1),
        ((ROUTE, HeadSplit(branches=(SWA, ROUTE)), GDN), 2),
    ],
)
def test_layers_without_a_bound_on_their_memory(mixers: tuple[Mixer, ...], expected: int) -> None:
    assert cost.full_layers(of(*mixers)) == expected
