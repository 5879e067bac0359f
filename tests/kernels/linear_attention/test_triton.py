"""The Triton kernels against the token loop in float64: outputs, final state and every gradient."""

from collections.abc import Callable
from typing import NamedTuple

import pytest
import torch
from torch import Tensor

from hybridsearch.kernels.linear_attention import fused, reference, triton_operators
from hybridsearch.kernels.linear_attention.step import gated_linear_attention_step

Rule = Callable[..., tuple[Tensor, Tensor]]
# relative errors; bfloat16 rounds q, k, v's products and each gradient to 8 bits
TOLERANCES = {torch.float32: 1e-5, torch.bfloat16: 5e-3}


class Given(NamedTuple):
    q: Tensor
    k: Tensor
    v: Tensor
    g: Tensor
    state: Tensor | None


def draw(
    device: torch.device,
    tokens: int,
    *,
    vector: bool,
    key_size: int = 16,
    value_size: int = 16,
    batch: int = 1,
    strength: float = 0.3,
    stateful: bool = True,
) -> Given:
    """Inputs that bfloat16 holds exactly, in float64; g is uniform in [-strength, 0]."""
    generator = torch.Generator().manual_seed(0)

    def normal(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator).bfloat16().double().to(device)

    shape = (batch, tokens, 2, key_size)
    q, k, v = normal(*shape), normal(*shape), normal(*shape[:3], value_size)
    g = -strength * torch.rand(shape if vector else shape[:3], generator=generator).double().to(device)
    return Given(q, k, v, g.float().double(), normal(batch, 2, key_size, value_size) if stateful else None)


def results(rule: Rule, given: Given, dtype: torch.dtype, **options: int) -> dict[str, Tensor]:
    """Output, final state, and the gradients of a random weighting of both, in float64."""
    wide = torch.promote_types(dtype, torch.float32)
    leaves = {
        name: x.to(dtype if name in "qkv" else wide).requires_grad_()
        for name, x in given._asdict().items()
        if x is not None
    }
    o, state = rule(*(leaves[n] for n in "qkvg"), initial_state=leaves.get("state"), **options)
    generator = torch.Generator().manual_seed(9)
    weights = [torch.randn(x.shape, generator=generator).bfloat16().to(x.device, x.dtype) for x in (o, state)]
    gradients = torch.autograd.grad((o, state), list(leaves.values()), weights)
    found = {"o": o, "after": state} | {f"d{name}": d for name, d in zip(leaves, gradients, strict=True)}
    return {name: x.detach().double() for name, x in found.items()}


def check(given: Given, dtype: torch.dtype, **options: int) -> None:
    expected = results(reference.gated_linear_attention, given, torch.float64)
    found = results(fused.gated_linear_attention, given, dtype, **options)
    errors = {name: float((found[name] - x).norm() / x.norm()) for name, x in expected.items()}
    assert not {name: error for name, error in errors.items() if not error <= TOLERANCES[dtype]}


@pytest.mark.parametrize("vector", [False, True], ids=["scalar", "vector"])
@pytest.mark.parametrize("dtype", TOLERANCES, ids=str)
@pytest.mark.parametrize("key_size", [32, 64, 100])
def test_equals_the_token_loop(device: torch.device, key_size: int, dtype: torch.dtype, vector: bool) -> None:
    """Two sequences of a ragged length, so that one's last tile holds the other's first rows."""
    check(draw(device, 70, vector=vector, batch=2, key_size=key_size), dtype)


@pytest.mark.parametrize("vector", [False, True], ids=["scalar", "vector"])
@pytest.mark.parametrize("stateful", [False, True], ids=["fresh", "state"])
def test_any_split_of_the_tokens_gives_the_same(device: torch.device, vector: bool, stateful: bool) -> None:
    check(draw(device, 260, vector=vector, strength=0.02, stateful=stateful), torch.float32, segments=3)


# Of the scores of a whole block those of tokens ahead may overflow; they are not taken.
@pytest.mark.filterwarnings("ignore:overflow encountered in matmul:RuntimeWarning")
@pytest.mark.parametrize("vector", [False, True], ids=["scalar", "vector"])
@pytest.mark.parametrize("strength", [3.0, 15.9], ids=["strong", "extreme"])
def test_decays_of_any_strength(device: torch.device, vector: bool, strength: float) -> None:
    given = draw(device, 67, vector=vector, strength=strength)
    given.g[:, ::3] *= 1e-3  # tokens that keep almost everything beside tokens that forget
    check(given, torch.float32)


@pytest.mark.filterwarnings("ignore:overflow encountered in matmul:RuntimeWarning")
@pytest.mark.parametrize("vector", [False, True], ids=["scalar", "vector"])
def test_nothing_but_strong_decays(device: torch.device, vector: bool) -> None:
    """dg is 1e7 times smaller than what a token does to itself, and must not hold roundings of that."""
    given = draw(device, 67, vector=vector)
    check(given._replace(g=torch.full_like(given.g, -15.0)), torch.float32)


@pytest.mark.parametrize("vector", [False, True], ids=["scalar", "vector"])
def test_total_forgetting_is_a_new_start(device: torch.device, vector: bool) -> None:
    given = draw(device, 40, vector=vector)
    given.g[:, 20] = -torch.inf
    q, k, v, g = (x.float() for x in given[:4])
    o, state = fused.gated_linear_attention(q, k, v, g, initial_state=given.state)
    late_o, late_state = reference.gated_linear_attention(*(x[:, 20:] for x in given[:4]))
    torch.testing.assert_close(o[:, 20:].double(), late_o, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(state.double(), late_state, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("vector", [False, True], ids=["scalar", "vector"])
def test_head_sizes_that_are_no_power_of_two_and_wide_values(device: torch.device, vector: bool) -> None:
    check(draw(device, 5, vector=vector, key_size=24, value_size=200), torch.float32)


@pytest.mark.parametrize("vector", [False, True], ids=["scalar", "vector"])
def test_steps_equal_the_loop(device: torch.device, vector: bool) -> None:
    given = draw(device, 1, vector=vector, key_size=24, value_size=40, batch=2)
    q, k, v, g = (x[:, 0].float() for x in given[:4])
    assert given.state is not None
    state = given.state.float()
    before = state.clone()
    expected = gated_linear_attention_step(q, k, v, g, state)
    for found, wanted in zip(fused.gated_linear_attention_step(q, k, v, g, state), expected, strict=True):
        torch.testing.assert_close(found, wanted, rtol=1e-5, atol=1e-5)
    assert torch.equal(state, before)


@pytest.mark.parametrize("vector", [False, True], ids=["scalar", "vector"])
def test_the_operators_tell_the_truth_about_themselves(device: torch.device, vector: bool) -> None:
    q, k, v, g = (x.float().requires_grad_() for x in draw(device, 3, vector=vector)[:4])
    checks = ("test_schema", "test_autograd_registration", "test_faketensor")
    given = (q, k, v, g, None, 0.25, 0, True)
    torch.library.opcheck(triton_operators.gated_linear.operator, given, test_utils=checks)
    row = tuple(x.detach()[:, 0] for x in (q, k, v, g))
    state = torch.zeros(1, 2, 16, 16, device=device)
    torch.library.opcheck(
        triton_operators.linear_step.operator, (*row, state, 0.25), test_utils=("test_schema", "test_faketensor")
    )


def test_compiles_without_a_graph_break(device: torch.device) -> None:
    given = draw(device, 3, vector=False, stateful=False)
    inputs = [x.float().requires_grad_() for x in given[:4]]
    compiled = torch.compile(fused.gated_linear_attention, fullgraph=True, backend="aot_eager")
    gradients = [
        torch.autograd.grad(rule(*inputs)[0].sum(), inputs) for rule in (compiled, fused.gated_linear_attention)
    ]
    for found, wanted in zip(*gradients, strict=True):
        torch.testing.assert_close(found, wanted, rtol=0, atol=0)
