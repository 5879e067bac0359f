"""Both forms of the rotation against complex multiplication, in float64."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from hybridsearch.kernels.rotary import pytorch


@pytest.mark.parametrize("form", [pytorch.rotate, pytorch.rotate_own_backward])
def test_turns_pairs_of_channels_as_complex_numbers(form: Callable[..., Tensor]) -> None:
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(2, 5, 3, 8, generator=generator, dtype=torch.float64).requires_grad_()
    angles = torch.randn(5, 1, 4, generator=generator, dtype=torch.float64)
    turned = torch.complex(x[..., :4], x[..., 4:]) * torch.polar(torch.ones_like(angles), angles)
    expected = torch.cat((turned.real, turned.imag), -1)
    cos, sin = torch.cat((angles.cos(),) * 2, -1), torch.cat((-angles.sin(), angles.sin()), -1)
    found = form(x, cos, sin)
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-14)
    weights = torch.randn(x.shape, generator=generator, dtype=torch.float64)
    ours, theirs = (torch.autograd.grad(y, x, weights)[0] for y in (found, expected))
    torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-13)
    with torch.no_grad():
        torch.testing.assert_close(form(x, cos, sin), expected, rtol=0, atol=1e-14)
