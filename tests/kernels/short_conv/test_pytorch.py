"""Both forms of the short convolution against torch's grouped convolution, in float64."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from hybridsearch.kernels.short_conv import pytorch


def definition(x: Tensor, weight: Tensor) -> Tensor:
    width, channels = weight.shape
    padded = F.pad(x.transpose(1, 2), (width - 1, 0))
    return F.silu(F.conv1d(padded, weight.T[:, None], groups=channels)).transpose(1, 2)


def draw(tokens: int, width: int) -> list[Tensor]:
    generator = torch.Generator().manual_seed(tokens)
    return [
        torch.randn(s, generator=generator, dtype=torch.float64).requires_grad_() for s in ((2, tokens, 5), (width, 5))
    ]


@pytest.mark.parametrize("form", [pytorch.short_conv, pytorch.short_conv_own_backward])
@pytest.mark.parametrize("tokens", [1, 2, 7, 65])
@pytest.mark.parametrize("width", [1, 2, 4])
def test_equals_the_definition(form: Callable[..., Tensor], tokens: int, width: int) -> None:
    given = draw(tokens, width)
    expected, found = definition(*given), form(*given)
    weights = torch.randn(expected.shape, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-13)
    pairs = zip(*(torch.autograd.grad(o, given, weights) for o in (found, expected)), strict=True)
    for ours, theirs in pairs:
        torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-12)
    with torch.no_grad():
        torch.testing.assert_close(form(*given), expected, rtol=0, atol=1e-13)


@pytest.mark.parametrize("width", [1, 2, 4])
def test_steps_equal_the_definition(width: int) -> None:
    x, weight = draw(9, width)
    tail = torch.zeros(2, width - 1, 5, dtype=torch.float64)
    outputs = []
    for token in x.unbind(1):
        y, tail = pytorch.short_conv_step(token, weight, tail)
        outputs.append(y)
    torch.testing.assert_close(torch.stack(outputs, 1), definition(x, weight), rtol=0, atol=1e-13)
