"""The chunked form against the token loop: outputs, final state, every gradient, in float64."""

from collections.abc import Callable
from typing import NamedTuple

import pytest
import torch
from torch import Tensor

from hybridsearch.kernels.linear_attention import chunked, reference
from hybridsearch.kernels.linear_attention.step import gated_linear_attention_step

TOLERANCE = 1e-12
STRENGTHS = {"weak": 0.05, "gentle": 1.5, "strong": 30.0, "extreme": 1e6}
"""Largest decay of a token; with chunks of 32 the first two take the gentle way, the others may not."""


class Given(NamedTuple):
    q: Tensor
    k: Tensor
    v: Tensor
    g: Tensor
    state: Tensor | None

    def converted(self, change: Callable[[Tensor], Tensor]) -> "Given":
        return Given(*(None if x is None else change(x) for x in self))  # type: ignore[arg-type]


def draw(tokens: int, *, vector: bool, strength: float, stateful: bool = False) -> Given:
    generator = torch.Generator().manual_seed(0)

    def normal(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator, dtype=torch.float64)

    q, k, v = normal(2, tokens, 3, 8), normal(2, tokens, 3, 8), normal(2, tokens, 3, 5)
    shape = (2, tokens, 3, 8) if vector else (2, tokens, 3)
    g = -strength * torch.rand(*shape, generator=generator, dtype=torch.float64)
    return Given(q, k, v, g, normal(2, 3, 8, 5) if stateful else None)


def looped(given: Given) -> tuple[Tensor, Tensor]:
    return reference.gated_linear_attention(given.q, given.k, given.v, given.g, initial_state=given.state)


def in_chunks(given: Given, chunk: int = 32, scale: float | None = None) -> tuple[Tensor, Tensor]:
    q, k, v, g, state = given
    return chunked.gated_linear_attention(q, k, v, g, initial_state=state, chunk=chunk, scale=scale)


def results(rule: Callable[[Given], tuple[Tensor, Tensor]], given: Given) -> dict[str, Tensor]:
    """Output, final state, and the gradients of a random weighting of both."""
    leaves = given.converted(lambda x: x.clone().requires_grad_())
    o, state = rule(leaves)
    generator = torch.Generator().manual_seed(9)
    weights = [torch.randn(x.shape, generator=generator, dtype=torch.float64).to(x.dtype) for x in (o, state)]
    named = {name: x for name, x in zip(Given._fields, leaves, strict=True) if x is not None}
    gradients = torch.autograd.grad((o, state), list(named.values()), weights)
    return {"o": o, "after": state} | {f"d{name}": d for name, d in zip(named, gradients, strict=True)}


def check(given: Given, chunk: int = 32) -> None:
    expected = results(looped, given)
    for name, found in results(lambda leaves: in_chunks(leaves, chunk), given).items():
        assert (found - expected[name]).norm() <= TOLERANCE * expected[name].norm().clamp(min=1.0), name


@pytest.mark.parametrize("stateful", [False, True], ids=["fresh", "state"])
@pytest.mark.parametrize("vector", [False, True], ids=["scalar", "vector"])
@pytest.mark.parametrize("tokens", [1, 7, 63, 65, 130])
def test_equals_the_token_loop(tokens: int, vector: bool, stateful: bool) -> None:
    check(draw(tokens, vector=vector, strength=0.5, stateful=stateful))


@pytest.mark.parametrize("strength", STRENGTHS.values(), ids=STRENGTHS.keys())
@pytest.mark.parametrize("vector", [False, True], ids=["scalar", "vector"])
def test_decays_of_any_strength(vector: bool, strength: float) -> None:
    given = draw(67, vector=vector, strength=strength, stateful=True)
    given.g[:, ::3] *= 1e-3  # tokens that keep almost everything beside tokens that forget
    check(given)


@pytest.mark.parametrize("vector", [False, True], ids=["scalar", "vector"])
def test_total_forgetting_is_a_new_start(vector: bool) -> None:
    given = draw(40, vector=vector, strength=0.1, stateful=True)
    given.g[:, 20] = -torch.inf
    o, state = in_chunks(given)
    late_o, late_state = looped(given._replace(state=None).converted(lambda x: x[:, 20:]))
    torch.testing.assert_close(o[:, 20:], late_o, rtol=0, atol=1e-12)
    torch.testing.assert_close(state, late_state, rtol=0, atol=1e-12)


@pytest.mark.parametrize("chunk", [1, 4, 64, 256])
@pytest.mark.parametrize("strength", [0.5, 30.0], ids=["gentle", "strong"])
def test_any_chunk_gives_the_same(chunk: int, strength: float) -> None:
    check(draw(70, vector=True, strength=strength, stateful=True), chunk)


@pytest.mark.parametrize("vector", [False, True], ids=["scalar", "vector"])
@pytest.mark.parametrize("strength", [1.8, 20.0], ids=["gentle", "strong"])
def test_float32_keeps_its_digits(vector: bool, strength: float) -> None:
    """1.8 is as much as a chunk of 32 may decay to go the gentle way, whose factors grow to exp(58)."""
    given = draw(130, vector=vector, strength=strength)
    exact = results(looped, given)
    for name, found in results(in_chunks, given.converted(Tensor.float)).items():
        assert (found.double() - exact[name]).norm() < 1e-5 * exact[name].norm(), name
        assert found.dtype == torch.float32


def test_scale_multiplies_the_output_only() -> None:
    given = draw(9, vector=True, strength=0.5)
    plain, state = in_chunks(given, scale=1.0)
    scaled, same = in_chunks(given, scale=0.25)
    torch.testing.assert_close(scaled, plain * 0.25)
    assert torch.equal(state, same)


@pytest.mark.parametrize("vector", [False, True], ids=["scalar", "vector"])
def test_steps_equal_the_token_loop(vector: bool) -> None:
    given = draw(11, vector=vector, strength=2.0, stateful=True)
    q, k, v, g, state = given
    assert state is not None
    before, current = state.clone(), state
    expected, final = looped(given)
    for t in range(11):
        o, current = gated_linear_attention_step(q[:, t], k[:, t], v[:, t], g[:, t], current)
        torch.testing.assert_close(o, expected[:, t], rtol=0, atol=1e-12)
    torch.testing.assert_close(current, final, rtol=0, atol=1e-12)
    assert torch.equal(state, before)
