"""Example mixers: every test that takes `example` runs once for each of them."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from hybridsearch.models.build import build
from hybridsearch.models.language_model import LanguageModel
from hybridsearch.spec.architecture import Architecture, Layer
from hybridsearch.spec.combinators import Mixer
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
