"""The Triton kernels against all T x T scores in float64: outputs and every gradient."""

import pytest
import torch
from torch import Tensor

from hybridsearch.kernels.sliding_window import fused, reference

# relative errors; bfloat16 rounds weights, products and each gradient to 8 bits
TOLERANCES = {torch.float32: 1e-5, torch.bfloat16: 5e-3}
CASES = [(1, 0), (5, 3), (64, 1), (70, 100), (100, 0), (400, 2)]


def draw(device: torch.device, tokens: int, sizes: tuple[int, int] = (32, 32), batch: int = 1) -> list[Tensor]:
    """Inputs that bfloat16 holds exactly, in float64: four query heads, two key-value heads."""
    generator = torch.Generator().manual_seed(tokens)
    shapes = ((batch, tokens, 4, sizes[0]), (batch, tokens, 2, sizes[0]), (batch, tokens, 2, sizes[1]))
    return [torch.randn(shape, generator=generator).bfloat16().double().to(device) for shape in shapes]


def check(given: list[Tensor], dtype: torch.dtype, window: int, sinks: int) -> None:
    leaves = [x.to(dtype).requires_grad_() for x in given]
    exact = [x.clone().requires_grad_() for x in given]
    found = fused.sliding_window_attention(*leaves, window=window, sinks=sinks)
    expected = reference.sliding_window_attention(*exact, window=window, sinks=sinks)
    weights = torch.randn(expected.shape, generator=torch.Generator().manual_seed(1)).bfloat16().to(found.device)
    gradients = torch.autograd.grad(found, leaves, weights.to(dtype))
    exact_gradients = torch.autograd.grad(expected, exact, weights.double())
    for ours, theirs in [(found, expected), *zip(gradients, exact_gradients, strict=True)]:
        assert ours.dtype == dtype
        # the gradients of q and k vanish where a query sees one key
        error = (ours.double() - theirs).norm() / theirs.norm().clamp(min=0.1 * float(exact_gradients[2].norm()))
        assert error <= TOLERANCES[dtype], error


@pytest.mark.parametrize(("window", "sinks"), CASES)
@pytest.mark.parametrize("dtype", TOLERANCES, ids=str)
def test_equals_the_definition(device: torch.device, dtype: torch.dtype, window: int, sinks: int) -> None:
    check(draw(device, 140), dtype, window=window, sinks=sinks)


@pytest.mark.parametrize("tokens", [1, 7, 63, 65, 130])
def test_any_length(device: torch.device, tokens: int) -> None:
    """Two sequences of a ragged length, so that one's last tile would hold the other's first rows."""
    check(draw(device, tokens, batch=2), torch.bfloat16, window=40, sinks=2)


@pytest.mark.parametrize("sizes", [(64, 64), (128, 128), (20, 40), (16, 130), (96, 96)], ids=str)
def test_any_size(device: torch.device, sizes: tuple[int, int]) -> None:
    check(draw(device, 130, sizes), torch.bfloat16, window=50, sinks=1)


@pytest.mark.parametrize("sizes", [(64, 64), (16, 16), (10, 50), (64, 24)], ids=str)
def test_any_size_in_float32(device: torch.device, sizes: tuple[int, int]) -> None:
    check(draw(device, 130, sizes), torch.float32, window=50, sinks=1)


def test_long_runs_of_sinks(device: torch.device) -> None:
    """More queries behind the window than one span, and sinks in two blocks of keys."""
    check(draw(device, 700, (16, 16)), torch.bfloat16, window=10, sinks=70)


def test_slices_of_one_projection(device: torch.device) -> None:
    """As the model passes them: nothing is copied, rows lie apart."""
    whole = torch.randn(2, 70, 8 * 32, generator=torch.Generator().manual_seed(0)).bfloat16().to(device)
    q, k, v = (torch.unflatten(x, -1, (-1, 32)) for x in torch.split(whole, [128, 64, 64], dim=-1))
    found = fused.sliding_window_attention(q, k, v, window=9, sinks=1)
    apart = fused.sliding_window_attention(*(x.contiguous() for x in (q, k, v)), window=9, sinks=1)
    assert torch.equal(found, apart)


def test_operators_are_sound(device: torch.device) -> None:
    """Schema, shapes without data, and gradients, as torch.compile will see them."""
    from hybridsearch.kernels.sliding_window import operators

    q, k, v = (x.bfloat16().requires_grad_() for x in draw(device, 20, (16, 16)))
    checks = ("test_schema", "test_faketensor", "test_autograd_registration")
    torch.library.opcheck(operators.sliding_window.operator, (q, k, v, 6, 1, 0.3), test_utils=checks)


def test_backward_inside_autocast(device: torch.device) -> None:
    """float32 in, bfloat16 products as autocast promises, float32 gradients."""
    leaves = [x.float().requires_grad_() for x in draw(device, 33, (16, 16))]
    with torch.autocast(device.type, dtype=torch.bfloat16):
        output = fused.sliding_window_attention(*leaves, window=9, sinks=1)
        assert output.dtype == torch.bfloat16
        gradients = torch.autograd.grad(output.float().square().sum(), leaves)
    assert all(x.dtype == torch.float32 and x.isfinite().all() for x in gradients)


def test_says_why_it_refuses(monkeypatch: pytest.MonkeyPatch) -> None:
    assert "found cpu" in fused.refuses(torch.device("cpu"), torch.bfloat16, 64)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: (9, 0))
    cuda = torch.device("cuda")
    assert fused.refuses(cuda, torch.bfloat16, 64) == fused.refuses(cuda, torch.float32, 64) == ""
    assert "float64" in fused.refuses(cuda, torch.float64, 64)
    assert "65" in fused.refuses(cuda, torch.float32, 65)
    assert "129" in fused.refuses(cuda, torch.bfloat16, 129)
