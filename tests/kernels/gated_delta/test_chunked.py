from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from hybridsearch.kernels.gated_delta import chunked, reference

# fp64: what is left is rounding, which beta near 2 with repeated keys amplifies
TOLERANCE = 1e-11

Inputs = dict[str, Tensor | None]
Draw = Callable[..., Inputs]
Results = Callable[..., dict[str, Tensor]]


def close(found: dict[str, Tensor], expected: dict[str, Tensor]) -> None:
    for name, value in expected.items():
        scale = value.norm().clamp(min=1.0)
        assert (found[name] - value).norm() <= TOLERANCE * scale, name
        assert found[name].dtype == value.dtype


def sequence(inputs: Inputs) -> tuple[Tensor, Tensor, Tensor, Tensor | None, Tensor]:
    """q, k, v, g and beta, without gradients."""
    q, k, v, g, beta = leaves(inputs)
    return q.detach(), k.detach(), v.detach(), None if g is None else g.detach(), beta.detach()


def leaves(inputs: Inputs) -> tuple[Tensor, Tensor, Tensor, Tensor | None, Tensor]:
    held = {name: x for name, x in inputs.items() if x is not None}
    return held["q"], held["k"], held["v"], held.get("g"), held["beta"]


@pytest.mark.parametrize("tokens", [1, 7, 63, 65, 130])
@pytest.mark.parametrize("gated", [True, False], ids=["gated", "delta"])
@pytest.mark.parametrize("stateful", [True, False], ids=["state", "fresh"])
def test_equals_the_token_loop(draw: Draw, results: Results, tokens: int, gated: bool, stateful: bool) -> None:
    inputs = draw(2, tokens, 2, 8, 6, groups=2, gated=gated, stateful=stateful)
    close(results(chunked.gated_delta_rule, inputs), results(reference.gated_delta_rule, inputs))


@pytest.mark.parametrize("chunk", [1, 16, 48, 256])
def test_any_chunk_gives_the_same(draw: Draw, results: Results, chunk: int) -> None:
    inputs = draw(1, 70, 1, 8, 8)
    close(results(chunked.gated_delta_rule, inputs, chunk=chunk), results(reference.gated_delta_rule, inputs))


def test_strong_decay_stays_finite_and_exact(draw: Draw, results: Results) -> None:
    inputs = draw(1, 70, 2, 8, 8, decay=(-60.0, 0.0))
    close(results(chunked.gated_delta_rule, inputs), results(reference.gated_delta_rule, inputs))


def test_minus_infinity_forgets_everything(draw: Draw) -> None:
    inputs = draw(1, 40, 1, 8, 8)
    q, k, v, g, beta = sequence(inputs)
    assert g is not None
    g[:, 20] = -torch.inf
    whole, state = chunked.gated_delta_rule(q, k, v, g, beta, initial_state=inputs["initial_state"])
    # the first token of what is left reads no state, so its decay does not matter
    g[:, 20] = 0.0
    alone, last = reference.gated_delta_rule(q[:, 20:], k[:, 20:], v[:, 20:], g[:, 20:], beta[:, 20:])
    torch.testing.assert_close(whole[:, 20:], alone, rtol=0, atol=1e-12)
    torch.testing.assert_close(state, last, rtol=0, atol=1e-12)


def test_repeated_keys_written_at_full_strength(draw: Draw, results: Results) -> None:
    inputs = draw(1, 96, 1, 8, 8, gated=False)
    with torch.no_grad():
        for name, x in inputs.items():
            if x is not None and name == "k":
                x.copy_(x[:, :1].expand_as(x))
            elif x is not None and name == "beta":
                x.fill_(1.0)
    close(results(chunked.gated_delta_rule, inputs), results(reference.gated_delta_rule, inputs))


def test_scale_multiplies_the_output_only(draw: Draw) -> None:
    arguments = sequence(draw(1, 33, 1, 8, 8))
    one, state = chunked.gated_delta_rule(*arguments, scale=1.0)
    three, same = chunked.gated_delta_rule(*arguments, scale=3.0)
    torch.testing.assert_close(three, 3 * one)
    torch.testing.assert_close(state, same, rtol=0, atol=0)


def test_low_precision_inputs_keep_their_type_and_an_exact_state(draw: Draw) -> None:
    q, k, v, g, beta = sequence(draw(1, 33, 1, 8, 8, dtype=torch.bfloat16))
    assert g is not None
    output, state = chunked.gated_delta_rule(q, k, v, g, beta)
    exact, exact_state = reference.gated_delta_rule(q.double(), k.double(), v.double(), g.double(), beta.double())
    assert output.dtype == torch.bfloat16 and state.dtype == torch.float32
    assert (output - exact).norm() <= 4e-3 * exact.norm()
    assert (state - exact_state).norm() <= 1e-5 * exact_state.norm()


@pytest.mark.parametrize("gated", [True, False], ids=["gated", "delta"])
def test_steps_continue_a_chunked_prefix(draw: Draw, gated: bool) -> None:
    inputs = draw(2, 40, 2, 8, 6, groups=2, gated=gated)
    q, k, v, g, beta = sequence(inputs)
    whole, last = chunked.gated_delta_rule(q, k, v, g, beta, initial_state=inputs["initial_state"])
    before = None if g is None else g[:, :25]
    prefix = (q[:, :25], k[:, :25], v[:, :25], before, beta[:, :25])
    _, state = chunked.gated_delta_rule(*prefix, initial_state=inputs["initial_state"])
    for t in range(25, 40):
        decay = None if g is None else g[:, t]
        output, state = reference.gated_delta_step(q[:, t], k[:, t], v[:, t], decay, beta[:, t], state)
        torch.testing.assert_close(output, whole[:, t], rtol=0, atol=1e-12)
    torch.testing.assert_close(state, last, rtol=0, atol=1e-12)


def test_a_backward_pass_inside_autocast_is_exact(draw: Draw, results: Results) -> None:
    inputs = draw(1, 40, 1, 8, 8, dtype=torch.float32)
    expected = results(chunked.gated_delta_rule, inputs)
    wanted = [x for x in inputs.values() if x is not None]
    output, state = chunked.gated_delta_rule(*leaves(inputs), initial_state=inputs["initial_state"])
    generator = torch.Generator().manual_seed(1)
    weights = [torch.randn(x.shape, generator=generator, dtype=torch.float64).to(x.dtype) for x in (output, state)]
    with torch.autocast("cpu", dtype=torch.bfloat16):
        gradients = torch.autograd.grad((output, state), wanted, weights)
    for name, gradient in zip(inputs, gradients, strict=True):
        assert torch.equal(gradient, expected[f"d{name}"]), name
