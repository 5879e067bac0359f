"""The delta rules with one decay a head and with one a key channel: what holds of one is tested of both."""

from collections.abc import Callable
from typing import Any, NamedTuple

import pytest
import torch
from torch import Tensor

from hybridsearch.kernels.gated_delta import chunked as gated_chunked
from hybridsearch.kernels.gated_delta import fused as gated_fused
from hybridsearch.kernels.gated_delta import operators as gated_operators
from hybridsearch.kernels.gated_delta import reference as gated_reference
from hybridsearch.kernels.kimi_delta import chunked as kimi_chunked
from hybridsearch.kernels.kimi_delta import fused as kimi_fused
from hybridsearch.kernels.kimi_delta import operators as kimi_operators
from hybridsearch.kernels.kimi_delta import reference as kimi_reference

Inputs = dict[str, Tensor | None]
Form = Callable[..., tuple[Tensor, Tensor]]


class Rule(NamedTuple):
    """The forms of one rule."""

    by_channel: bool
    """Whether every key channel has its decay."""
    loop: Form
    loop_step: Form
    chunked: Form
    fused: Form
    fused_step: Form
    refuses: Callable[..., str]
    operator: Any
    rest: tuple[None, ...] = ()
    """Arguments of its operator behind `train`."""


RULES = {
    "gated_delta": Rule(
        False,
        gated_reference.gated_delta_rule,
        gated_reference.gated_delta_step,
        gated_chunked.gated_delta_rule,
        gated_fused.gated_delta_rule,
        gated_fused.gated_delta_step,
        gated_fused.refuses,
        gated_operators.gated_delta,
        (None,),
    ),
    "kimi_delta": Rule(
        True,
        kimi_reference.kimi_delta_rule,
        kimi_reference.kimi_delta_step,
        kimi_chunked.kimi_delta_rule,
        kimi_fused.kimi_delta_rule,
        kimi_fused.kimi_delta_step,
        kimi_fused.refuses,
        kimi_operators.kimi_delta,
    ),
}


@pytest.fixture(params=list(RULES))
def rule(request: pytest.FixtureRequest) -> Rule:
    """Each rule in turn, or the one that a case names."""
    return RULES[request.param]


@pytest.fixture
def draw(rule: Rule) -> Callable[..., Inputs]:
    """Fresh inputs of the rule, each a leaf that wants its gradient; without a decay if not `gated`."""

    def inputs(
        batch: int,
        tokens: int,
        heads: int,
        key_size: int,
        value_size: int,
        *,
        groups: int = 1,
        gated: bool = True,
        stateful: bool = True,
        decay: tuple[float, float] = (-0.2, 0.0),
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
        decays = (*written, key_size) if rule.by_channel else written
        drawn = {
            "q": unit(batch, tokens, heads, key_size),
            "k": unit(batch, tokens, heads, key_size),
            "v": normal(*written, value_size),
            "g": low + (high - low) * torch.rand(decays, generator=generator, dtype=torch.float64) if gated else None,
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

    def run(form: Form, inputs: Inputs, **options: Any) -> dict[str, Tensor]:
        leaves = {name: x for name, x in inputs.items() if x is not None}
        initial_state = inputs["initial_state"]
        output, state = form(*(inputs[n] for n in ("q", "k", "v", "g", "beta")), initial_state=initial_state, **options)
        generator = torch.Generator().manual_seed(1)
        weights = [
            torch.randn(x.shape, generator=generator, dtype=torch.float64).to(x.device, x.dtype)
            for x in (output, state)
        ]
        gradients = torch.autograd.grad((output, state), list(leaves.values()), weights)
        found = dict(zip((f"d{name}" for name in leaves), gradients, strict=True))
        return {"output": output.detach(), "state": state.detach()} | found

    return run
