"""The Triton kernels against the definition in float64: the loss and the gradients of hidden and vocabulary."""

from typing import Literal

import pytest
import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from hybridsearch.kernels.cross_entropy import fused, pytorch

# relative errors; bfloat16 rounds the logits and each product to 8 bits
TOLERANCES = {torch.float32: 1e-5, torch.bfloat16: 5e-3}


def draw(device: torch.device, rows: int, vocabulary: int, width: int = 16) -> tuple[Tensor, Tensor, Tensor]:
    """Numbers that bfloat16 holds exactly, in float64; logits around 1, those of bfloat16 err by their size."""
    generator = torch.Generator().manual_seed(rows)
    hidden, matrix = (torch.randn(n, width, generator=generator).bfloat16().double() for n in (rows, vocabulary))
    targets = torch.randint(vocabulary, (rows,), generator=generator)
    targets[-1] = vocabulary - 1
    return hidden.to(device) / width**0.5, matrix.to(device), targets.to(device)


@pytest.mark.parametrize("dtype", TOLERANCES, ids=str)
@pytest.mark.parametrize("reduction", ["mean", "sum"])
@pytest.mark.parametrize(("rows", "vocabulary"), [(1, 1), (3, 7), (5, 1500), (2, 9001)])
def test_equals_the_definition(
    device: torch.device, dtype: torch.dtype, reduction: Literal["mean", "sum"], rows: int, vocabulary: int
) -> None:
    hidden, matrix, targets = draw(device, rows, vocabulary)
    leaves = (hidden.to(dtype).requires_grad_(), matrix.to(dtype).requires_grad_())
    doubles = (hidden.clone().requires_grad_(), matrix.clone().requires_grad_())
    found = fused.cross_entropy(leaves[0], leaves[1], targets, reduction=reduction)
    expected = pytorch.reference(doubles[0], doubles[1], targets, reduction=reduction)
    gradients = torch.autograd.grad(3 * found, leaves)
    exact_gradients = torch.autograd.grad(3 * expected, doubles)
    assert found.dtype == torch.float32
    for ours, theirs in [(found, expected), *zip(gradients, exact_gradients, strict=True)]:
        error = (ours.double() - theirs).norm() / theirs.norm().clamp(min=1e-2)
        assert error <= TOLERANCES[dtype], error


def test_extreme_logits(device: torch.device) -> None:
    """Exponentials of logits of 300 overflow, of -300 vanish; the loss is exact."""
    matrix = torch.tensor([[300.0], [-300.0], [299.0]], device=device)
    hidden = torch.ones(3, 1, device=device)
    targets = torch.arange(3, device=device)
    found = fused.cross_entropy(hidden, matrix, targets)
    torch.testing.assert_close(found, pytorch.reference(hidden.double(), matrix.double(), targets).float())


def test_torch_form_equals_the_definition() -> None:
    hidden, matrix, targets = draw(torch.device("cpu"), 5, 30)
    for reduction in ("mean", "sum"):
        found = pytorch.cross_entropy(hidden.float(), matrix.float(), targets, reduction=reduction)
        expected = pytorch.reference(hidden, matrix, targets, reduction=reduction)
        torch.testing.assert_close(found, expected.float())


def test_backward_inside_autocast(device: torch.device) -> None:
    hidden, matrix, targets = draw(device, 6, 40)
    leaves = (hidden.float().requires_grad_(), matrix.float().requires_grad_())
    with torch.autocast(device.type, dtype=torch.bfloat16):
        gradients = torch.autograd.grad(fused.cross_entropy(leaves[0], leaves[1], targets), leaves)
    doubles = (hidden.clone().requires_grad_(), matrix.clone().requires_grad_())
    expected = torch.autograd.grad(pytorch.reference(doubles[0], doubles[1], targets), doubles)
    for ours, theirs in zip(gradients, expected, strict=True):
        assert ours.dtype == torch.float32
        assert (ours.double() - theirs).norm() / theirs.norm() <= TOLERANCES[torch.bfloat16]


def test_a_second_backward_pass_raises(device: torch.device) -> None:
    """The logits have become their gradient."""
    hidden, matrix, targets = draw(device, 3, 9)
    hidden = hidden.float().requires_grad_()
    loss = fused.cross_entropy(hidden, matrix.float(), targets)
    torch.autograd.grad(loss, hidden, retain_graph=True)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        torch.autograd.grad(loss, hidden)


def test_recomputed_in_the_backward_pass(device: torch.device) -> None:
    """As long texts are trained: the logits of a piece exist only while it is worked on."""
    hidden, matrix, targets = draw(device, 6, 9)
    leaves = (hidden.float().requires_grad_(), matrix.float().requires_grad_())
    pieces = zip(leaves[0].chunk(2), targets.chunk(2), strict=True)
    sums = [checkpoint(fused.cross_entropy, h, leaves[1], t, reduction="sum", use_reentrant=False) for h, t in pieces]
    gradients = torch.autograd.grad(torch.stack(sums).sum(), leaves)
    whole = torch.autograd.grad(pytorch.cross_entropy(leaves[0], leaves[1], targets, reduction="sum"), leaves)
    for ours, theirs in zip(gradients, whole, strict=True):
        torch.testing.assert_close(ours, theirs)


def test_operators_are_sound(device: torch.device) -> None:
    """Schema and shapes without data, as torch.compile will see them."""
    from hybridsearch.kernels.cross_entropy import operators

    logits, _, targets = draw(device, 4, 9)
    checks = ("test_schema", "test_faketensor")
    torch.library.opcheck(operators.cross_entropy.operator, (logits.float(), targets), test_utils=checks)
    backward = (logits.float(), targets, torch.ones(4, device=device), torch.ones(4, device=device))
    torch.library.opcheck(operators.cross_entropy_backward.operator, backward, test_utils=checks)


def test_says_why_it_refuses(monkeypatch: pytest.MonkeyPatch) -> None:
    assert "found cpu" in fused.refuses(torch.device("cpu"), torch.bfloat16, 64)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: (9, 0))
    assert fused.refuses(torch.device("cuda"), torch.bfloat16, 64) == ""
    assert "float64" in fused.refuses(torch.device("cuda"), torch.float64, 64)
