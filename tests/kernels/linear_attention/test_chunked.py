"""The chunked form against the token loop: outputs, final state, every gradient, in float64."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from hybridsearch.kernels.linear_attention import chunked, reference
from hybridsearch.kernels.linear_attention.step import gated_linear_attention_step

TOLERANCE = 1e-12
STRENGTHS = {"weak": 0.05, "gentle": 1.5, "strong": 30.0, "extreme": 1e6}
"""Largest decay of a token; with chunks of 32 the first two take the gentle way, the others may not."""
Rule = Callable[..., tuple[Tensor, Tensor]]


def inputs(
    tokens: int, *, vector: bool, strength: float, stateful: bool = False, seed: int = 0
) -> dict[str, Tensor | None]:
    generator = torch.Generator().manual_seed(seed)

    def normal(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator, dtype=torch.float64)

    decays = (2, tokens, 3, 8) if vector else (2, tokens, 3)
    drawn = {
        "q": normal(2, tokens, 3, 8),
        "k": normal(2, tokens, 3, 8),
        "v": normal(2, tokens, 3, 5),
        "g": -strength * torch.rand(*decays, generator=generator, dtype=torch.float64),
        "initial_state": normal(2, 3, 8, 5),
    }
    return {name: x if stateful or name != "initial_state" else None for name, x in drawn.items()}


def results(rule: Rule, given: dict[str, Tensor | None], **options: float | int) -> dict[str, Tensor]:
    """Output, final state, and the gradients of a random weighting of both."""
    leaves = {name: x.clone().requires_grad_() for name, x in given.items() if x is not None}
    o, state = rule(**leaves, **options)
    generator = torch.Generator().manual_seed(9)
    loss = sum((x * torch.randn(x.shape, generator=generator, dtype=x.dtype)).sum() for x in (o, state))
    assert isinstance(loss, Tensor)
    gradients = torch.autograd.grad(loss, list(leaves.values()))
    return {"o": o, "state": state} | {f"d{name}": d for name, d in zip(leaves, gradients, strict=True)}


def check(given: dict[str, Tensor | None], **options: float | int) -> None:
    expected = results(reference.gated_linear_attention, given)
    for name, found in results(chunked.gated_linear_attention, given, **options).items():
        assert (found - expected[name]).norm() <= TOLERANCE * expected[name].norm().clamp(min=1.0), name


@pytest.mark.parametrize("stateful", [False, True], ids=["fresh", "state"])
@pytest.mark.parametrize("vector", [False, True], ids=["scalar", "vector"])
@pytest.mark.parametrize("tokens", [1, 7, 63, 65, 130])
def test_equals_the_token_loop(tokens: int, vector: bool, stateful: bool) -> None:
    check(inputs(tokens, vector=vector, strength=0.5, stateful=stateful))


@pytest.mark.parametrize("strength", STRENGTHS.values(), ids=STRENGTHS.keys())
@pytest.mark.parametrize("vector", [False, True], ids=["scalar", "vector"])
def test_decays_of_any_strength(vector: bool, strength: float) -> None:
    given = inputs(67, vector=vector, strength=strength, stateful=True)
    assert given["g"] is not None
    given["g"][:, ::3] *= 1e-3  # tokens that keep almost everything beside tokens that forget
    check(given)


@pytest.mark.parametrize("vector", [False, True], ids=["scalar", "vector"])
def test_total_forgetting_is_a_new_start(vector: bool) -> None:
    given = inputs(40, vector=vector, strength=0.1, stateful=True)
    sequence = {name: x for name, x in given.items() if x is not None and name != "initial_state"}
    sequence["g"][:, 20] = -torch.inf
    o, state = chunked.gated_linear_attention(**sequence, initial_state=given["initial_state"])
    late = {name: x[:, 20:] for name, x in sequence.items()}
    late_o, late_state = reference.gated_linear_attention(**late)
    torch.testing.assert_close(o[:, 20:], late_o, rtol=0, atol=1e-12)
    torch.testing.assert_close(state, late_state, rtol=0, atol=1e-12)


@pytest.mark.parametrize("chunk", [1, 4, 64, 256])
@pytest.mark.parametrize("strength", [0.5, 30.0], ids=["gentle", "strong"])
def test_any_chunk_gives_the_same(chunk: int, strength: float) -> None:
    check(inputs(70, vector=True, strength=strength, stateful=True), chunk=chunk)


@pytest.mark.parametrize("vector", [False, True], ids=["scalar", "vector"])
def test_float32_keeps_its_digits_under_strong_decay(vector: bool) -> None:
    given = inputs(130, vector=vector, strength=20.0)
    exact, _ = reference.gated_linear_attention(**{name: x for name, x in given.items() if x is not None})
    o, state = chunked.gated_linear_attention(**{name: x.float() for name, x in given.items() if x is not None})
    assert (o.double() - exact).norm() < 2e-5 * exact.norm()
    assert state.dtype == torch.float32


def test_scale_multiplies_the_output_only() -> None:
    given = {name: x for name, x in inputs(9, vector=True, strength=0.5).items() if x is not None}
    plain, state = chunked.gated_linear_attention(**given, scale=1.0)
    scaled, same = chunked.gated_linear_attention(**given, scale=0.25)
    torch.testing.assert_close(scaled, plain * 0.25)
    assert torch.equal(state, same)


@pytest.mark.parametrize("vector", [False, True], ids=["scalar", "vector"])
def test_steps_equal_the_token_loop(vector: bool) -> None:
    given = inputs(11, vector=vector, strength=2.0, stateful=True)
    state = given["initial_state"]
    assert state is not None
    before = state.clone()
    sequence = [x for name, x in given.items() if x is not None and name != "initial_state"]
    expected, final = reference.gated_linear_attention(*sequence, initial_state=state)
    for t in range(11):
        o, state = gated_linear_attention_step(*(x[:, t] for x in sequence), state)
        torch.testing.assert_close(o, expected[:, t], rtol=0, atol=1e-12)
    torch.testing.assert_close(state, final, rtol=0, atol=1e-12)
    assert given["initial_state"] is not None
    assert torch.equal(given["initial_state"], before)
