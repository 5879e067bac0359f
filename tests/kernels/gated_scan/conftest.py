from collections.abc import Callable

import pytest
import torch
from torch import Tensor

Inputs = dict[str, Tensor]
Rule = Callable[..., tuple[Tensor, Tensor]]


def _draw(tokens: int, channels: int = 24, *, batch: int = 2, strength: float = 1.5, stateful: bool = True) -> Inputs:
    """Inputs that bfloat16 holds exactly, in float64; g is uniform in [-strength, 0]."""
    generator = torch.Generator().manual_seed(0)

    def rounded(x: Tensor) -> Tensor:
        return x.bfloat16().double()

    x = rounded(torch.randn(batch, tokens, channels, generator=generator))
    g = rounded(-strength * torch.rand(batch, tokens, channels, generator=generator))
    state = rounded(torch.randn(batch, channels, generator=generator))
    return {"x": x, "g": g} | ({"initial_state": state} if stateful else {})


def _results(rule: Rule, inputs: Inputs, dtype: torch.dtype, device: torch.device, **options: int) -> Inputs:
    """Output, final state, and the gradients of a random weighting of both, in float64."""
    wide = torch.promote_types(dtype, torch.float32)
    kinds = {"initial_state": wide}
    leaves = {name: x.to(device, kinds.get(name, dtype), copy=True).requires_grad_() for name, x in inputs.items()}
    h, state = rule(**leaves, **options)
    assert h.dtype == dtype and state.dtype == wide
    generator = torch.Generator().manual_seed(9)
    weights = [torch.randn(x.shape, generator=generator).bfloat16().to(x.device, x.dtype) for x in (h, state)]
    gradients = torch.autograd.grad((h, state), list(leaves.values()), weights)
    found = {"h": h, "last": state} | {f"d{name}": d for name, d in zip(leaves, gradients, strict=True)}
    return {name: x.detach().cpu().double() for name, x in found.items()}


@pytest.fixture
def draw() -> Callable[..., Inputs]:
    return _draw


@pytest.fixture
def results() -> Callable[..., Inputs]:
    return _results
