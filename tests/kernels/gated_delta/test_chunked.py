import pytest
import torch

from hybridsearch.kernels.gated_delta import chunked, reference

# fp64: what is left is rounding, which beta near 2 with repeated keys amplifies
TOLERANCE = 1e-11


def close(found, expected):
    for name, value in expected.items():
        scale = value.norm().clamp(min=1.0)
        assert (found[name] - value).norm() <= TOLERANCE * scale, name
        assert found[name].dtype == value.dtype


@pytest.mark.parametrize("tokens", [1, 7, 63, 65, 130])
@pytest.mark.parametrize("gated", [True, False], ids=["gated", "delta"])
@pytest.mark.parametrize("stateful", [True, False], ids=["state", "fresh"])
def test_equals_the_token_loop(draw, results, tokens, gated, stateful):
    inputs = draw(2, tokens, 2, 8, 6, groups=2, gated=gated, stateful=stateful)
    close(results(chunked.gated_delta_rule, inputs), results(reference.gated_delta_rule, inputs))


@pytest.mark.parametrize("chunk", [1, 16, 48, 256])
def test_any_chunk_gives_the_same(draw, results, chunk):
    inputs = draw(1, 70, 1, 8, 8)
    close(results(chunked.gated_delta_rule, inputs, chunk=chunk), results(reference.gated_delta_rule, inputs))


def test_strong_decay_stays_finite_and_exact(draw, results):
    inputs = draw(1, 70, 2, 8, 8, decay=(-60.0, 0.0))
    close(results(chunked.gated_delta_rule, inputs), results(reference.gated_delta_rule, inputs))


def test_minus_infinity_forgets_everything(draw):
    inputs = draw(1, 40, 1, 8, 8)
    g = inputs["g"].detach().clone()
    g[:, 20] = -torch.inf
    arguments = [inputs[n].detach() for n in ("q", "k", "v")]
    whole, state = chunked.gated_delta_rule(
        *arguments, g, inputs["beta"].detach(), initial_state=inputs["initial_state"]
    )
    rest = [x[:, 20:] for x in (*arguments, g, inputs["beta"].detach())]
    rest[3] = torch.zeros_like(rest[3]).copy_(g[:, 20:].clamp(min=-200.0))
    alone, last = reference.gated_delta_rule(*rest)
    torch.testing.assert_close(whole[:, 20:], alone, rtol=0, atol=1e-12)
    torch.testing.assert_close(state, last, rtol=0, atol=1e-12)


def test_repeated_keys_written_at_full_strength(draw, results):
    inputs = draw(1, 96, 1, 8, 8, gated=False)
    with torch.no_grad():
        inputs["k"].copy_(inputs["k"][:, :1].expand_as(inputs["k"]))
        inputs["beta"].fill_(1.0)
    close(results(chunked.gated_delta_rule, inputs), results(reference.gated_delta_rule, inputs))


def test_scale_multiplies_the_output_only(draw):
    inputs = draw(1, 33, 1, 8, 8)
    arguments = [inputs[n] for n in ("q", "k", "v", "g", "beta")]
    one, state = chunked.gated_delta_rule(*arguments, scale=1.0)
    three, same = chunked.gated_delta_rule(*arguments, scale=3.0)
    torch.testing.assert_close(three, 3 * one)
    torch.testing.assert_close(state, same, rtol=0, atol=0)


def test_low_precision_inputs_keep_their_type_and_an_exact_state(draw):
    inputs = draw(1, 33, 1, 8, 8, dtype=torch.bfloat16)
    arguments = [inputs[n].detach() for n in ("q", "k", "v", "g", "beta")]
    output, state = chunked.gated_delta_rule(*arguments)
    exact, exact_state = reference.gated_delta_rule(*(x.double() for x in arguments))
    assert output.dtype == torch.bfloat16 and state.dtype == torch.float32
    assert (output - exact).norm() <= 4e-3 * exact.norm()
    assert (state - exact_state).norm() <= 1e-5 * exact_state.norm()


@pytest.mark.parametrize("gated", [True, False], ids=["gated", "delta"])
def test_steps_continue_a_chunked_prefix(draw, gated):
    inputs = draw(2, 40, 2, 8, 6, groups=2, gated=gated)
    sequence = [None if inputs[n] is None else inputs[n].detach() for n in ("q", "k", "v", "g", "beta")]
    whole, last = chunked.gated_delta_rule(*sequence, initial_state=inputs["initial_state"].detach())
    prefix = [None if x is None else x[:, :25] for x in sequence]
    _, state = chunked.gated_delta_rule(*prefix, initial_state=inputs["initial_state"].detach())
    for t in range(25, 40):
        token = [None if x is None else x[:, t] for x in sequence]
        output, state = reference.gated_delta_step(*token, state)
        torch.testing.assert_close(output, whole[:, t], rtol=0, atol=1e-12)
    torch.testing.assert_close(state, last, rtol=0, atol=1e-12)
