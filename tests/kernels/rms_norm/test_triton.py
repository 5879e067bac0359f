"""The Triton kernels of the norms against their formulas in float64: outputs and every gradient."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from hybridsearch.kernels.rms_norm import fused, reference

EPSILON = 1e-2
"""Large enough to see that it stands where it should."""
# relative errors; bfloat16 rounds each result to 8 bits
TOLERANCES = {torch.float32: 1e-5, torch.bfloat16: 4e-3}
SHAPES = [(2, 5, 3, 7), (2, 33, 2, 64), (3, 65, 130), (1, 1, 1), (5, 48)]
"""Ragged numbers of rows, sizes that are no power of two, one tile and several."""


def draw(device: torch.device, *shapes: tuple[int, ...], seed: int = 0) -> list[Tensor]:
    """Tensors that bfloat16 holds exactly, in float64."""
    generator = torch.Generator().manual_seed(seed)
    return [torch.randn(shape, generator=generator).bfloat16().double().to(device) for shape in shapes]


def check(ours: Callable[..., Tensor], exact: Callable[..., Tensor], given: list[Tensor], dtype: torch.dtype) -> None:
    """Outputs and the gradients of all `given`, the weights (last axes alone) in float32 as under autocast."""
    leaves = [x.to(torch.float32 if x.dim() == 1 else dtype).requires_grad_() for x in given]
    doubles = [x.clone().requires_grad_() for x in given]
    found, expected = ours(*leaves), exact(*doubles)
    assert found.dtype == dtype and found.shape == expected.shape
    (weights,) = draw(expected.device, tuple(expected.shape), seed=9)
    gradients = torch.autograd.grad(found, leaves, weights.to(dtype))
    exact_gradients = torch.autograd.grad(expected, doubles, weights)
    for one, two in [(found, expected), *zip(gradients, exact_gradients, strict=True)]:
        assert one.shape == two.shape
        error = (one.double() - two).norm() / two.norm().clamp(min=1e-3)
        assert error <= TOLERANCES[dtype], error


@pytest.mark.parametrize("dtype", TOLERANCES, ids=str)
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_norms(device: torch.device, shape: tuple[int, ...], dtype: torch.dtype) -> None:
    given = draw(device, shape, shape[-1:], shape)

    def named(norm: Callable[..., Tensor]) -> Callable[..., Tensor]:
        return lambda x, *rest: norm(x, *rest, EPSILON)

    check(named(fused.unit_length), named(reference.unit_length), given[:1], dtype)
    check(named(fused.rms_norm), named(reference.rms_norm), given[:2], dtype)
    check(named(fused.gated_rms_norm), named(reference.gated_rms_norm), given, dtype)
    check(lambda x: fused.rms_norm(x, None, EPSILON), lambda x: reference.rms_norm(x, None, EPSILON), given[:1], dtype)


@pytest.mark.parametrize("dtype", TOLERANCES, ids=str)
@pytest.mark.parametrize("shared", [None, "query", "scalar"])
@pytest.mark.parametrize("gated", [True, False])
def test_mixed_norm(device: torch.device, dtype: torch.dtype, shared: str | None, gated: bool) -> None:
    shape, size = (2, 35, 3, 40), (40,)
    first, second, one, two, gate = draw(device, shape, shape, size, size, shape)
    share = torch.rand((3,) if shared == "scalar" else shape[:-1], generator=torch.Generator().manual_seed(1))
    given = [first, second, one, two, *([share.bfloat16().double().to(device)] if shared else []), *[gate] * gated]

    def named(norm: Callable[..., Tensor]) -> Callable[..., Tensor]:
        def run(first: Tensor, second: Tensor, one: Tensor, two: Tensor, *rest: Tensor) -> Tensor:
            part = rest[0] if shared else None
            return norm(first, second, one, two, part, rest[-1] if gated else None, EPSILON)

        return run

    check(named(fused.mixed_rms_norm), named(reference.mixed_rms_norm), given, dtype)


def test_a_weight_for_each_head(device: torch.device) -> None:
    """And heads that are a slice of a wider projection: nothing is copied."""
    wide, weight = draw(device, (2, 9, 5 * 16), (3, 16))
    given = [wide, weight]

    def named(norm: Callable[..., Tensor]) -> Callable[..., Tensor]:
        return lambda wide, weight: norm(wide[..., 16:64].unflatten(-1, (3, 16)), weight, EPSILON)

    check(named(fused.rms_norm), named(reference.rms_norm), given, torch.float32)


def test_rows_of_zeros_have_no_nan(device: torch.device) -> None:
    x = torch.zeros(3, 8, device=device, requires_grad=True)
    y = fused.unit_length(x, 1e-6)
    (gradient,) = torch.autograd.grad(y.sum(), x)
    assert torch.equal(y, x) and gradient.isfinite().all()


def test_operators_are_sound(device: torch.device) -> None:
    """Schema, shapes without data, and gradients, as torch.compile will see them."""
    from hybridsearch.kernels.rms_norm import operators

    x, weight, gate = (t.bfloat16().requires_grad_() for t in draw(device, (3, 2, 16), (16,), (3, 2, 16)))
    share = torch.rand(3, 2, device=device, requires_grad=True)
    checks = ("test_schema", "test_faketensor", "test_autograd_registration")
    calls: list[tuple[Any, tuple[Any, ...]]] = [
        (operators.norm, (x, weight, gate, 4.0, 0.1)),
        (operators.norm, (x, None, None, 4.0, 0.1)),
        (operators.norm_mix, (x, gate, weight, weight, share, gate, 4.0, 0.1)),
    ]
    for operator, arguments in calls:
        torch.library.opcheck(operator.operator, arguments, test_utils=checks)


def test_says_why_it_refuses(monkeypatch: pytest.MonkeyPatch) -> None:
    assert "found cpu" in fused.refuses(torch.device("cpu"), torch.bfloat16, 64)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: (9, 0))
    cuda = torch.device("cuda")
    assert fused.refuses(cuda, torch.bfloat16, 64) == ""
    assert "float64" in fused.refuses(cuda, torch.float64, 64)
    assert "20000" in fused.refuses(cuda, torch.bfloat16, 20000)
