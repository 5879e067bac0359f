"""The blocked form against all T x T scores: outputs and every gradient, in float64."""

import pytest
import torch
from torch import Tensor

from hybridsearch.kernels.sliding_window import blocked, reference


def draw(tokens: int, heads: int, groups: int) -> list[Tensor]:
    generator = torch.Generator().manual_seed(tokens)
    shapes = ((2, tokens, heads, 6), (2, tokens, groups, 6), (2, tokens, groups, 4))
    return [torch.randn(shape, generator=generator, dtype=torch.float64).requires_grad_() for shape in shapes]


@pytest.mark.parametrize("tokens", [1, 7, 63, 130, 333])
@pytest.mark.parametrize(("window", "sinks"), [(1, 0), (5, 0), (5, 3), (64, 1), (70, 100), (400, 2)])
def test_equals_the_definition(tokens: int, window: int, sinks: int) -> None:
    given = draw(tokens, 4, 2)
    expected = reference.sliding_window_attention(*given, window=window, sinks=sinks)
    found = blocked.sliding_window_attention(*given, window=window, sinks=sinks)
    weights = torch.randn(expected.shape, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-12)
    pairs = zip(*(torch.autograd.grad(o, given, weights) for o in (found, expected)), strict=True)
    for ours, theirs in pairs:
        torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-11)


def test_a_query_sees_its_window_and_the_sinks_and_nothing_else() -> None:
    """Values are one-hot in the token, so the output shows which tokens have weight."""
    tokens, window, sinks = 200, 9, 2
    q, k, _ = draw(tokens, 1, 1)
    v = torch.eye(tokens, dtype=torch.float64).view(1, tokens, 1, tokens).expand(2, -1, -1, -1)
    seen = blocked.sliding_window_attention(q, k, v, window=window, sinks=sinks)[0, :, 0] > 0
    for query in range(tokens):
        expected = {t for t in range(query + 1) if query - t < window or t < sinks}
        assert set(seen[query].nonzero().flatten().tolist()) == expected


def test_scale_is_that_of_the_scores() -> None:
    q, k, v = draw(150, 2, 2)
    scaled = blocked.sliding_window_attention(q, k, v, window=8, scale=1.0)
    torch.testing.assert_close(scaled, blocked.sliding_window_attention(q * 6**0.5, k, v, window=8))
