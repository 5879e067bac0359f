from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

# fp64: what is left is rounding, which beta near 2 with repeated keys amplifies
TOLERANCE = 1e-11

Inputs = dict[str, Tensor | None]
Draw = Callable[..., Inputs]
Results = Callable[..., dict[str, Tensor]]
BOTH_AND_UNGATED = pytest.mark.parametrize(
    ("rule", "gated"),
    [
        pytest.param("gated_delta", True, id="gated"),
        pytest.param("gated_delta", False, id="delta"),
        pytest.param("kimi_delta", True, id="kimi"),
    ],
    indirect=["rule"],
)


def close(found: dict[str, Tensor], expected: dict[str, Tensor]) -> None:
    for name, value in expected.items():
        scale = value.norm().clamp(min=1.0)
        assert (found[name] - value).norm() <= TOLERANCE * scale, name
        assert found[name].dtype == value.dtype


def sequence(inputs: Inputs) -> list[Any]:
    """q, k, v, g and beta."""
    return [inputs[name] for name in ("q", "k", "v", "g", "beta")]


def constants(inputs: Inputs) -> list[Any]:
    """The same without gradients."""
    return [None if x is None else x.detach() for x in sequence(inputs)]


@pytest.mark.parametrize("tokens", [1, 7, 63, 65, 130])
@BOTH_AND_UNGATED
@pytest.mark.parametrize("stateful", [True, False], ids=["state", "fresh"])
def test_equals_the_token_loop(
    rule: Any, draw: Draw, results: Results, tokens: int, gated: bool, stateful: bool
) -> None:
    inputs = draw(2, tokens, 2, 8, 6, groups=2, gated=gated, stateful=stateful)
    close(results(rule.chunked, inputs), results(rule.loop, inputs))


@pytest.mark.parametrize(
    ("rule", "chunk"),
    # the pairs of Kimi's are found in halves of chunks, down to single tokens
    [*(("gated_delta", chunk) for chunk in (1, 16, 48, 256)), *(("kimi_delta", chunk) for chunk in (1, 16, 64, 256))],
    indirect=["rule"],
)
def test_any_chunk_gives_the_same(rule: Any, draw: Draw, results: Results, chunk: int) -> None:
    inputs = draw(1, 70, 1, 8, 8)
    close(results(rule.chunked, inputs, chunk=chunk), results(rule.loop, inputs))


@pytest.mark.parametrize("strongest", [-4.0, -60.0])
def test_strong_decay_stays_finite_and_exact(rule: Any, draw: Draw, results: Results, strongest: float) -> None:
    inputs = draw(1, 70, 2, 8, 8, decay=(strongest, 0.0))
    close(results(rule.chunked, inputs), results(rule.loop, inputs))


@pytest.mark.parametrize("rule", ["kimi_delta"], indirect=True)
def test_channels_that_keep_all_beside_channels_that_forget(rule: Any, draw: Draw, results: Results) -> None:
    inputs = draw(1, 70, 1, 8, 8, decay=(-60.0, 0.0))
    decay = inputs["g"]
    assert decay is not None
    with torch.no_grad():
        decay[..., ::2] *= 1e-4
    close(results(rule.chunked, inputs), results(rule.loop, inputs))


def test_minus_infinity_forgets_everything(rule: Any, draw: Draw) -> None:
    inputs = draw(1, 40, 1, 8, 8)
    q, k, v, g, beta = constants(inputs)
    g[:, 20] = -torch.inf
    whole, state = rule.chunked(q, k, v, g, beta, initial_state=inputs["initial_state"])
    # the first token of what is left reads no state, so its decay does not matter
    g[:, 20] = 0.0
    alone, last = rule.loop(q[:, 20:], k[:, 20:], v[:, 20:], g[:, 20:], beta[:, 20:])
    torch.testing.assert_close(whole[:, 20:], alone, rtol=0, atol=1e-12)
    torch.testing.assert_close(state, last, rtol=0, atol=1e-12)


@pytest.mark.parametrize(
    ("rule", "options"),
    [("gated_delta", {"gated": False}), ("kimi_delta", {"decay": (0.0, 0.0)})],
    indirect=["rule"],
    ids=["gated", "kimi"],
)
def test_repeated_keys_written_at_full_strength(
    rule: Any, draw: Draw, results: Results, options: dict[str, object]
) -> None:
    inputs = draw(1, 96, 1, 8, 8, **options)
    with torch.no_grad():
        for name, x in inputs.items():
            if x is not None and name == "k":
                x.copy_(x[:, :1].expand_as(x))
            elif x is not None and name == "beta":
                x.fill_(1.0)
    close(results(rule.chunked, inputs), results(rule.loop, inputs))


@pytest.mark.parametrize("rule", ["kimi_delta"], indirect=True)
def test_one_decay_for_all_channels_is_the_gated_delta_rule(rule: Any, draw: Draw) -> None:
    from hybridsearch.kernels.gated_delta.reference import gated_delta_rule

    q, k, v, g, beta = constants(draw(1, 40, 2, 8, 6))
    g = g[..., :1].expand_as(g)
    found = rule.chunked(q, k, v, g, beta)
    for ours, theirs in zip(found, gated_delta_rule(q, k, v, g[..., 0], beta), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-12)


def test_scale_multiplies_the_output_only(rule: Any, draw: Draw) -> None:
    arguments = constants(draw(1, 33, 1, 8, 8))
    one, state = rule.chunked(*arguments, scale=1.0)
    three, same = rule.chunked(*arguments, scale=3.0)
    torch.testing.assert_close(three, 3 * one)
    torch.testing.assert_close(state, same, rtol=0, atol=0)


def test_low_precision_inputs_keep_their_type_and_an_exact_state(rule: Any, draw: Draw) -> None:
    arguments = constants(draw(1, 33, 1, 8, 8, dtype=torch.bfloat16))
    output, state = rule.chunked(*arguments)
    exact, exact_state = rule.loop(*(x.double() for x in arguments))
    assert output.dtype == torch.bfloat16 and state.dtype == torch.float32
    assert (output - exact).norm() <= 4e-3 * exact.norm()
    assert (state - exact_state).norm() <= 1e-5 * exact_state.norm()


@BOTH_AND_UNGATED
def test_steps_continue_a_chunked_prefix(rule: Any, draw: Draw, gated: bool) -> None:
    inputs = draw(2, 40, 2, 8, 6, groups=2, gated=gated)
    arguments = constants(inputs)
    whole, last = rule.chunked(*arguments, initial_state=inputs["initial_state"])
    prefix = (None if x is None else x[:, :25] for x in arguments)
    _, state = rule.chunked(*prefix, initial_state=inputs["initial_state"])
    for t in range(25, 40):
        output, state = rule.loop_step(*(None if x is None else x[:, t] for x in arguments), state)
        torch.testing.assert_close(output, whole[:, t], rtol=0, atol=1e-12)
    torch.testing.assert_close(state, last, rtol=0, atol=1e-12)


def test_a_backward_pass_inside_autocast_is_exact(rule: Any, draw: Draw, results: Results) -> None:
    inputs = draw(1, 40, 1, 8, 8, dtype=torch.float32)
    expected = results(rule.chunked, inputs)
    wanted = [x for x in inputs.values() if x is not None]
    output, state = rule.chunked(*sequence(inputs), initial_state=inputs["initial_state"])
    generator = torch.Generator().manual_seed(1)
    weights = [torch.randn(x.shape, generator=generator, dtype=torch.float64).to(x.dtype) for x in (output, state)]
    with torch.autocast("cpu", dtype=torch.bfloat16):
        gradients = torch.autograd.grad((output, state), wanted, weights)
    for name, gradient in zip(inputs, gradients, strict=True):
        assert torch.equal(gradient, expected[f"d{name}"]), name
