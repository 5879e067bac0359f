"""The chunked form against the token loop: output, final state, every gradient, in float64."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from hybridsearch.kernels.gated_scan import chunked, reference

Draw = Callable[..., dict[str, Tensor]]
Results = Callable[..., dict[str, Tensor]]

CPU = torch.device("cpu")
STRENGTHS = {"weak": 0.05, "gentle": 1.5, "strong": 30.0, "extreme": 1e6}
"""Largest decay of a token."""


def check(results: Results, inputs: dict[str, Tensor], tolerance: float = 1e-13, **options: int) -> None:
    expected = results(reference.gated_scan, inputs, torch.float64, CPU)
    for name, found in results(chunked.gated_scan, inputs, torch.float64, CPU, **options).items():
        assert (found - expected[name]).norm() <= tolerance * expected[name].norm(), name


@pytest.mark.parametrize("stateful", [False, True], ids=["fresh", "state"])
@pytest.mark.parametrize("tokens", [1, 2, 7, 63, 65, 130])
def test_equals_the_token_loop(draw: Draw, results: Results, tokens: int, stateful: bool) -> None:
    check(results, draw(tokens, 5, stateful=stateful))


@pytest.mark.parametrize("strength", STRENGTHS.values(), ids=STRENGTHS.keys())
def test_decays_of_any_strength(draw: Draw, results: Results, strength: float) -> None:
    inputs = draw(67, 5, strength=strength)
    inputs["g"][:, ::3] *= 1e-3  # tokens that keep almost everything beside tokens that forget
    check(results, inputs)


@pytest.mark.parametrize("chunk", [1, 3, 64, 256])
def test_any_chunk_gives_the_same(draw: Draw, results: Results, chunk: int) -> None:
    check(results, draw(70, 5), chunk=chunk)


def test_total_forgetting_is_a_new_start(draw: Draw) -> None:
    inputs = draw(40, 5)
    inputs["g"][:, 20] = -torch.inf
    h, state = chunked.gated_scan(inputs["x"], inputs["g"], initial_state=inputs["initial_state"])
    late_h, late_state = reference.gated_scan(inputs["x"][:, 20:], inputs["g"][:, 20:])
    torch.testing.assert_close(h[:, 20:], late_h)
    torch.testing.assert_close(state, late_state)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=["float32", "bfloat16"])
def test_keeps_the_digits_of_its_dtype(draw: Draw, results: Results, dtype: torch.dtype) -> None:
    """The state is float32 inside: what bfloat16 loses is one rounding of each result."""
    inputs = draw(300, 5, strength=0.02)
    expected = results(reference.gated_scan, inputs, torch.float64, CPU)
    for name, found in results(chunked.gated_scan, inputs, dtype, CPU).items():
        tolerance = 1e-6 if dtype == torch.float32 else 3e-3
        assert (found - expected[name]).norm() <= tolerance * expected[name].norm(), name


def test_steps_equal_the_token_loop(draw: Draw) -> None:
    inputs = draw(11, 5)
    before, current = inputs["initial_state"].clone(), inputs["initial_state"]
    expected, final = reference.gated_scan(**inputs)
    for t in range(11):
        h, current = reference.gated_scan_step(inputs["x"][:, t], inputs["g"][:, t], current)
        torch.testing.assert_close(h, expected[:, t])
    torch.testing.assert_close(current, final)
    assert torch.equal(inputs["initial_state"], before)
