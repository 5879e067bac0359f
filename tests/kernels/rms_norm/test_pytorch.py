"""The norms with a backward pass of their own against their formulas, in float64."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from hybridsearch.kernels.rms_norm import pytorch, reference

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


@pytest.mark.parametrize("form", [pytorch.rms_norm, pytorch.rms_norm_own_backward])
def test_a_weight_for_each_head(form: Callable[..., Tensor]) -> None:
    x, _ = draw()
    weight = torch.randn(3, 7, dtype=torch.float64, requires_grad=True)
    same(form(x, weight, EPSILON), reference.rms_norm(x, weight, EPSILON), (x, weight))


@pytest.mark.parametrize("form", [pytorch.gated_rms_norm, pytorch.gated_rms_norm_own_backward])
def test_gated_norm(form: Callable[..., Tensor]) -> None:
    x, weight = draw()
    gate = torch.randn(x.shape, generator=torch.Generator().manual_seed(2), dtype=torch.float64, requires_grad=True)
    same(form(x, weight, gate, EPSILON), reference.gated_rms_norm(x, weight, gate, EPSILON), (x, weight, gate))


@pytest.mark.parametrize("form", [pytorch.mixed_rms_norm, pytorch.mixed_rms_norm_own_backward])
@pytest.mark.parametrize("shared", [False, True])
@pytest.mark.parametrize("gated", [False, True])
def test_mixed_norm(form: Callable[..., Tensor], shared: bool, gated: bool) -> None:
    x, weight = draw()
    generator = torch.Generator().manual_seed(2)
    second, gate = (torch.randn(x.shape, generator=generator, dtype=torch.float64) for _ in range(2))
    share = torch.rand(x.shape[:-1], generator=generator, dtype=torch.float64)
    one, two = weight, torch.rand_like(weight).detach().requires_grad_()
    given = (x, second.requires_grad_(), one, two, share.requires_grad_(), gate.requires_grad_())
    part, through = share if shared else None, gate if gated else None
    found, expected = (norm(x, second, one, two, part, through, EPSILON) for norm in (form, reference.mixed_rms_norm))
    same(found, expected, tuple(x for x in given if (shared or x is not share) and (gated or x is not gate)))
