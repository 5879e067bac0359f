"""The Triton kernels against torch's grouped convolution in float64: outputs and both gradients."""

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from hybridsearch.kernels.short_conv import fused

# relative errors; bfloat16 rounds each result to 8 bits
TOLERANCES = {torch.float32: 1e-5, torch.bfloat16: 4e-3}


def definition(x: Tensor, weight: Tensor) -> Tensor:
    width, channels = weight.shape
    padded = F.pad(x.transpose(1, 2), (width - 1, 0))
    return F.silu(F.conv1d(padded, weight.T[:, None], groups=channels)).transpose(1, 2)


def draw(device: torch.device, tokens: int, width: int, channels: int = 5) -> list[Tensor]:
    """Two sequences, in numbers that bfloat16 holds exactly, in float64."""
    generator = torch.Generator().manual_seed(tokens)
    shapes = ((2, tokens, channels), (width, channels), (2, tokens, channels))
    return [torch.randn(shape, generator=generator).bfloat16().double().to(device) for shape in shapes]


def error(found: Tensor, expected: Tensor) -> float:
    return float((found.detach().double() - expected.detach()).norm() / expected.detach().norm())


@pytest.mark.parametrize("dtype", TOLERANCES, ids=str)
@pytest.mark.parametrize("tokens", [1, 2, 7, 65, 130])
@pytest.mark.parametrize("width", [2, 4, 8])
def test_equals_the_definition(device: torch.device, dtype: torch.dtype, tokens: int, width: int) -> None:
    """The weight stays float32, as under autocast."""
    x, weight, weights = draw(device, tokens, width, 130 if tokens == 65 else 5)
    leaves = [x.to(dtype).requires_grad_(), weight.float().requires_grad_()]
    doubles = [x.clone().requires_grad_(), weight.clone().requires_grad_()]
    found, expected = fused.short_conv(*leaves), definition(*doubles)
    assert found.dtype == dtype
    assert error(found, expected) <= TOLERANCES[dtype]
    gradients = torch.autograd.grad(found, leaves, weights.to(dtype))
    for ours, theirs in zip(gradients, torch.autograd.grad(expected, doubles, weights), strict=True):
        assert error(ours, theirs) <= TOLERANCES[dtype]


def test_a_slice_of_a_projection(device: torch.device) -> None:
    """As the model passes it: rows lie apart, nothing is copied."""
    wide, weight, _ = draw(device, 40, 4, 24)
    found = fused.short_conv(wide.float()[..., 8:16], weight[:, 8:16].float())
    assert error(found, definition(wide, weight)[..., 8:16]) <= 1e-5


@pytest.mark.parametrize("width", [2, 4, 8])
def test_steps_equal_the_definition(device: torch.device, width: int) -> None:
    x, weight, _ = draw(device, 9, width)
    tail = torch.zeros(2, width - 1, 5, device=device)
    outputs = []
    for token in x.float().unbind(1):
        y, tail = fused.short_conv_step(token, weight.float(), tail)
        outputs.append(y)
    assert error(torch.stack(outputs, 1), definition(x, weight)) <= 1e-5


def test_operators_are_sound(device: torch.device) -> None:
    """Schema, shapes without data, and gradients, as torch.compile will see them."""
    from hybridsearch.kernels.short_conv import operators

    x, weight, _ = (t.float().requires_grad_() for t in draw(device, 9, 4))
    checks = ("test_schema", "test_faketensor", "test_autograd_registration")
    torch.library.opcheck(operators.short_conv.operator, (x, weight), test_utils=checks)
    step = (x[:, 0].detach(), weight.detach(), x[:, :3].detach())
    torch.library.opcheck(operators.short_conv_step.operator, step, test_utils=checks[:2])


def test_says_why_it_refuses(monkeypatch: pytest.MonkeyPatch) -> None:
    assert "found cpu" in fused.refuses(torch.device("cpu"), torch.bfloat16, 4)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: (9, 0))
    cuda = torch.device("cuda")
    assert fused.refuses(cuda, torch.bfloat16, 4) == ""
    assert "float64" in fused.refuses(cuda, torch.float64, 4)
    assert "width 1 " in fused.refuses(cuda, torch.bfloat16, 1)
