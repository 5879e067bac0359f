"""The Triton kernel against the plain form in float64: output and gradient."""

import pytest
import torch
from torch import Tensor

from hybridsearch.kernels.rotary import fused, pytorch

# relative errors; bfloat16 rounds the result to 8 bits
TOLERANCES = {torch.float32: 1e-6, torch.bfloat16: 4e-3}


def draw(device: torch.device, tokens: int, heads: int, size: int, table_heads: int) -> tuple[Tensor, Tensor, Tensor]:
    """x and the tables, in numbers that bfloat16 holds exactly, in float64."""
    generator = torch.Generator().manual_seed(tokens)
    x = torch.randn(2, tokens, heads, size, generator=generator).bfloat16().double()
    angle = torch.randn(tokens, table_heads, size // 2, generator=generator)
    cos, sin = (wave.bfloat16().double() for wave in (angle.cos(), angle.sin()))
    tables = (torch.cat((cos, cos), -1), torch.cat((-sin, sin), -1))
    return x.to(device), tables[0].to(device), tables[1].to(device)


@pytest.mark.parametrize("dtype", TOLERANCES, ids=str)
@pytest.mark.parametrize(
    ("tokens", "heads", "size", "table_heads"), [(1, 1, 2, 1), (7, 3, 20, 3), (65, 2, 64, 1), (33, 4, 128, 4)]
)
def test_equals_the_plain_form(
    device: torch.device, dtype: torch.dtype, tokens: int, heads: int, size: int, table_heads: int
) -> None:
    exact, cos, sin = draw(device, tokens, heads, size, table_heads)
    x = exact.to(dtype).requires_grad_()
    exact.requires_grad_()
    found, expected = fused.rotate(x, cos.to(dtype), sin.to(dtype)), pytorch.rotate(exact, cos, sin)
    weights = torch.randn(found.shape, generator=torch.Generator().manual_seed(1)).bfloat16().to(device)
    (ours,) = torch.autograd.grad(found, x, weights.to(dtype))
    (theirs,) = torch.autograd.grad(expected, exact, weights.double())
    assert found.dtype == ours.dtype == dtype
    for one, two in ((found, expected), (ours, theirs)):
        assert (one.double() - two).norm() / two.norm() <= TOLERANCES[dtype]


def test_a_slice_of_a_projection(device: torch.device) -> None:
    """As the model passes it: tokens lie apart, nothing is copied."""
    x, cos, sin = (t.float() for t in draw(device, 9, 4, 16, 1))
    wide = torch.cat((x, x), dim=2)
    torch.testing.assert_close(fused.rotate(wide[:, :, 4:], cos, sin), pytorch.rotate(x, cos, sin))
    torch.testing.assert_close(fused.rotate(x[:, 2:], cos[2:], sin[2:]), pytorch.rotate(x[:, 2:], cos[2:], sin[2:]))


def test_operator_is_sound(device: torch.device) -> None:
    """Schema, shapes without data, and gradients, as torch.compile will see them."""
    from hybridsearch.kernels.rotary import operators

    x, cos, sin = (t.float() for t in draw(device, 5, 2, 8, 1))
    checks = ("test_schema", "test_faketensor", "test_autograd_registration")
    torch.library.opcheck(operators.rotate.operator, (x.requires_grad_(), cos, sin, 1.0), test_utils=checks)


def test_says_why_it_refuses(monkeypatch: pytest.MonkeyPatch) -> None:
    assert "found cpu" in fused.refuses(torch.device("cpu"), torch.bfloat16, 64)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: (9, 0))
    assert fused.refuses(torch.device("cuda"), torch.bfloat16, 64) == ""
    assert "float64" in fused.refuses(torch.device("cuda"), torch.float64, 64)
