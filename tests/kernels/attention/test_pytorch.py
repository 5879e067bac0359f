"""Attention through torch's fused operation against its definition, in float64."""

import pytest
import torch
from torch import Tensor

from hybridsearch.kernels.attention import pytorch


def draw(tokens: int, heads: int, groups: int) -> list[Tensor]:
    generator = torch.Generator().manual_seed(tokens)
    shapes = ((2, tokens, heads, 6), (2, tokens, groups, 6), (2, tokens, groups, 4))
    return [torch.randn(shape, generator=generator, dtype=torch.float64).requires_grad_() for shape in shapes]


@pytest.mark.parametrize("tokens", [1, 7, 65])
@pytest.mark.parametrize(("heads", "groups"), [(2, 2), (4, 2), (6, 1)])
def test_equals_the_definition(tokens: int, heads: int, groups: int) -> None:
    given = draw(tokens, heads, groups)
    expected, found = pytorch.reference(*given), pytorch.causal_attention(*given)
    weights = torch.randn(expected.shape, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-12)
    pairs = zip(*(torch.autograd.grad(o, given, weights) for o in (found, expected)), strict=True)
    for ours, theirs in pairs:
        torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-11)


@pytest.mark.parametrize(("heads", "groups"), [(2, 2), (4, 2), (6, 1)])
def test_a_step_is_the_last_row(heads: int, groups: int) -> None:
    q, k, v = draw(33, heads, groups)
    expected = pytorch.reference(q, k, v, scale=0.7)[:, -1]
    found = pytorch.attention_step(q[:, -1], k.transpose(1, 2), v.transpose(1, 2), scale=0.7)
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-12)
