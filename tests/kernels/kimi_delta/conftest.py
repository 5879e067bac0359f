from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

Inputs = dict[str, Tensor | None]
DecayRange = tuple[float, float]


@pytest.fixture
def draw() -> Callable[..., Inputs]:
    """Fresh inputs of the rule, each a leaf that wants its gradient."""

    def inputs(
        batch: int,
        tokens: int,
        heads: int,
        key_size: int,
        value_size: int,
        *,
        groups: int = 1,
        stateful: bool = True,
        decay: DecayRange = (-0.2, 0.0),
        seed: int = 0,
        dtype: torch.dtype = torch.float64,
    ) -> Inputs:
        generator = torch.Generator().manual_seed(seed)

        def normal(*shape: int) -> Tensor:
            return torch.randn(*shape, generator=generator, dtype=torch.float64)

        def unit(*shape: int) -> Tensor:
            return torch.nn.functional.normalize(normal(*shape), dim=-1)

        low, high = decay
        written = (batch, tokens, heads * groups)
        drawn = {
            "q": unit(batch, tokens, heads, key_size),
            "k": unit(batch, tokens, heads, key_size),
            "v": normal(*written, value_size),
            "g": low + (high - low) * torch.rand(*written, key_size, generator=generator, dtype=torch.float64),
            # up to 2: negative eigenvalues of the transition, the stiffest case
            "beta": 2 * torch.rand(written, generator=generator, dtype=torch.float64),
            "initial_state": normal(batch, heads * groups, key_size, value_size) if stateful else None,
        }
        return {
            name: None
            if x is None
            else x.to(dtype if name in "qkv" else torch.promote_types(dtype, torch.float32)).requires_grad_()
            for name, x in drawn.items()
        }

    return inputs


@pytest.fixture
def results() -> Callable[..., dict[str, Tensor]]:
    """Output, final state, and the gradient of every input, of one random weighting of output and final state."""

    def run(rule: Callable[..., tuple[Tensor, Tensor]], inputs: Inputs, **options: Any) -> dict[str, Tensor]:
        leaves = {name: x for name, x in inputs.items() if x is not None}
        initial_state = inputs["initial_state"]
        output, state = rule(*(inputs[n] for n in ("q", "k", "v", "g", "beta")), initial_state=initial_state, **options)
        generator = torch.Generator().manual_seed(1)
        weights = [
            torch.randn(x.shape, generator=generator, dtype=torch.float64).to(x.device, x.dtype)
            for x in (output, state)
        ]
        gradients = torch.autograd.grad((output, state), list(leaves.values()), weights)
        found = dict(zip((f"d{name}" for name in leaves), gradients, strict=True))
        return {"output": output.detach(), "state": state.detach()} | found

    return run
