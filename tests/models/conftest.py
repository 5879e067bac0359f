"""Example mixers: every test that takes `example` runs once for each of them."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from hybridsearch.models.build import build
from hybridsearch.models.language_model import LanguageModel
from hybridsearch.spec.architecture import Architecture, Layer
from hybridsearch.spec.combinators import HeadSplit, Mixer, TokenRoute
from hybridsearch.spec.hgrn import Hgrn
from hybridsearch.spec.kimi_delta import KimiDelta
from hybridsearch.spec.mixers import Delta, FullAttention, GatedDelta, GatedLinear, SlidingWindow

VOCABULARY = 32
WIDTH = 24

EXAMPLES: dict[str, Mixer] = {
    "full": FullAttention(heads=2, head_dim=8),
    "full, grouped": FullAttention(heads=4, kv_heads=2, head_dim=6, value_head_dim=10, rope_theta=500.0, qk_norm=False),
    "full, convolved, gated, no positions": FullAttention(
        heads=2, kv_heads=1, head_dim=5, rope_theta=None, short_conv=3, gate=True
    ),
    "sliding": SlidingWindow(heads=2, head_dim=8, window=5),
    "sliding, sinks, grouped": SlidingWindow(heads=4, kv_heads=2, head_dim=6, window=9, sinks=3, rope_theta=None),
    "sliding, wide": SlidingWindow(heads=1, head_dim=8, window=70, sinks=2, qk_norm=False),
    "gated delta": GatedDelta(heads=2, head_dim=8),
    "gated delta, grouped": GatedDelta(
        heads=2, value_heads=4, head_dim=6, value_head_dim=9, short_conv=2, negative_eigenvalues=True
    ),
    "gated delta, bare": GatedDelta(heads=1, head_dim=8, short_conv=0, gate=False),
    "delta": Delta(heads=2, head_dim=8, value_head_dim=12),
    "delta, gated": Delta(heads=3, head_dim=4, short_conv=1, gate=True, negative_eigenvalues=True),
    "gated linear": GatedLinear(heads=2, head_dim=8, value_head_dim=12),
    "gated linear, scalar": GatedLinear(heads=3, head_dim=4, decay="scalar", short_conv=3),
    "gated linear, bare": GatedLinear(heads=2, head_dim=6, short_conv=0, gate=False),
    "kimi delta": KimiDelta(heads=2, head_dim=8, value_head_dim=12, negative_eigenvalues=True),
    "kimi delta, bare": KimiDelta(heads=3, head_dim=6, short_conv=0, gate=False),
    "hgrn": Hgrn(heads=2, head_dim=8, short_conv=4, least_forget=0.9),
    "hgrn, bare": Hgrn(heads=1, head_dim=10, gate=False),
    "token route": TokenRoute(
        softmax=FullAttention(heads=4, head_dim=4, value_head_dim=6, rope_theta=None),
        linear=GatedDelta(heads=2, head_dim=8, value_head_dim=12),
        chunk=8,
        routing="random",
        share=0.4,
    ),
    "token route, all softmax": TokenRoute(
        softmax=FullAttention(heads=2, head_dim=8, qk_norm=False),
        linear=Delta(heads=2, head_dim=8, gate=True),
        chunk=16,
        mix="scalar",
        routing="periodic",
        share=1.0,
    ),
    "token route, all linear": TokenRoute(
        softmax=FullAttention(heads=2, head_dim=8),
        linear=GatedDelta(heads=2, head_dim=8, gate=False, short_conv=2),
        chunk=5,
        mix="sum",
        branch_norm=False,
        routing="first",
        share=0.0,
    ),
    "token route, own chunk linear": TokenRoute(
        softmax=FullAttention(heads=2, head_dim=4, rope_theta=100.0),
        linear=Delta(heads=1, head_dim=8, short_conv=0, negative_eigenvalues=True),
        chunk=4,
        scope="layer",
        own_chunk="linear",
        mix="scalar",
        routing="first",
        share=0.3,
    ),
    "token route, own chunk softmax": TokenRoute(
        softmax=FullAttention(heads=2, head_dim=8),
        linear=GatedDelta(heads=2, head_dim=8),
        chunk=6,
        own_chunk="softmax",
        decay_through=False,
        routing="periodic",
        share=0.5,
    ),
    "head split": HeadSplit(branches=(FullAttention(heads=1, head_dim=8), GatedDelta(heads=2, head_dim=6))),
    "head split of three": HeadSplit(
        branches=(
            SlidingWindow(heads=2, head_dim=4, window=7),
            GatedLinear(heads=1, head_dim=8, value_head_dim=10),
            TokenRoute(
                softmax=FullAttention(heads=2, head_dim=4),
                linear=GatedDelta(heads=1, head_dim=8),
                chunk=8,
                routing="periodic",
                share=0.5,
            ),
        ),
        normalise=False,
    ),
}

Maker = Callable[..., LanguageModel]


@pytest.fixture(params=list(EXAMPLES.values()), ids=list(EXAMPLES))
def example(request: pytest.FixtureRequest) -> Mixer:
    mixer: Mixer = request.param
    return mixer


@pytest.fixture
def architecture(example: Mixer) -> Architecture:
    """Two layers of the example, one with a feed-forward and one without."""
    layers = (Layer(mixer=example, feed_forward=20), Layer(mixer=example, feed_forward=0))
    return Architecture(width=WIDTH, layers=layers, tied_embeddings=False)


@pytest.fixture
def make(architecture: Architecture) -> Maker:
    """Builds a model whose weights are large enough for every part to matter."""

    def maker(dtype: torch.dtype = torch.float64, seed: int = 1) -> LanguageModel:
        model = build(architecture, VOCABULARY, generator=torch.Generator().manual_seed(seed), dtype=dtype)
        with torch.no_grad():
            for parameter in model.parameters():
                if parameter.dim() == 2:
                    parameter.mul_(10)
        return model

    return maker


@pytest.fixture
def tokens() -> Tensor:
    """[3, 90]: longer than every example's window and than one chunk of the linear mixers."""
    return torch.randint(0, VOCABULARY, (3, 90), generator=torch.Generator().manual_seed(2))
