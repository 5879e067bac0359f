"""The norms with a backward pass of their own against their formulas, in float64."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from hybridsearch.kernels.rms_norm import pytorch

EPSILON = 1e-2
"""Large enough to see that it stands where it should."""


def draw() -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    x, weight = (torch.randn(s, generator=generator, dtype=torch.float64) for s in ((2, 5, 3, 7), (7,)))
    x[0, 0, 0] = 0.0
    return x.requires_grad_(), weight.requires_grad_()


def same(found: Tensor, expected: Tensor, given: tuple[Tensor, ...]) -> None:
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-13)
    weights = torch.randn(expected.shape, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    pairs = zip(*(torch.autograd.grad(y, given, weights) for y in (found, expected)), strict=True)
    for ours, theirs in pairs:
        torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-11)


@pytest.mark.parametrize("form", [pytorch.rms_norm, pytorch.rms_norm_own_backward])
def test_rms_norm(form: Callable[..., Tensor]) -> None:
    x, weight = draw()
    expected = x / (x.square().mean(-1, keepdim=True) + EPSILON).sqrt()
    same(form(x, None, EPSILON), expected, (x,))
    expected = weight * x / (x.square().mean(-1, keepdim=True) + EPSILON).sqrt()
    same(form(x, weight, EPSILON), expected, (x, weight))
    with torch.no_grad():
        torch.testing.assert_close(form(x, weight, EPSILON), expected, rtol=0, atol=1e-13)


@pytest.mark.parametrize("form", [pytorch.unit_length, pytorch.unit_length_own_backward])
def test_unit_length(form: Callable[..., Tensor]) -> None:
    x, _ = draw()
    expected = x / (x.square().sum(-1, keepdim=True) + EPSILON).sqrt()
    same(form(x, EPSILON), expected, (x,))
    with torch.no_grad():
        torch.testing.assert_close(form(x, EPSILON), expected, rtol=0, atol=1e-13)
