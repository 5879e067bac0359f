"""The chunked form against the dense reference: outputs, final state and every gradient, the route's included."""

from itertools import product
from typing import Any

import pytest
import torch
from torch import Tensor

from hybridsearch.kernels.token_routing import chunked, reference

CHUNK = 8
LENGTHS = (
    1,
    7,
    8,
    9,
    40,
    61,
)  # open chunk only; one token short of, at and past a chunk; no open chunk; several blocks
NAMES = ("q", "k", "v", "linear_q", "linear_k", "linear_v", "g", "beta", "route", "initial_state")


def inputs(tokens: int, routing: str = "mixed", *, decay: float = 1.0, chunk: int = CHUNK) -> dict[str, Any]:
    """Two sequences, two linear heads of 6 and 10, four softmax heads of 3 and 5."""
    rng = torch.Generator().manual_seed(tokens)

    def normal(*shape: int) -> Tensor:
        return torch.randn(2, tokens, *shape, generator=rng, dtype=torch.float64)

    softmax = torch.rand(2, tokens // chunk, 2, generator=rng) < {"mixed": 0.5, "softmax": 1.0, "linear": 0.0}[routing]
    made = {
        "q": normal(4, 3),
        "k": normal(4, 3),
        "v": normal(4, 5),
        "linear_q": torch.nn.functional.normalize(normal(2, 6), dim=-1),
        "linear_k": torch.nn.functional.normalize(normal(2, 6), dim=-1),
        "linear_v": normal(2, 10),
        "g": -decay * normal(2).exp(),
        "beta": 2 * normal(2).sigmoid(),
        "route": torch.stack((softmax, ~softmax), -1).double(),
        "initial_state": torch.randn(2, 2, 6, 10, generator=rng, dtype=torch.float64),
    }
    return {name: value.requires_grad_() for name, value in made.items()}


def run(form: Any, given: dict[str, Any], options: dict[str, Any]) -> dict[str, Tensor]:
    """Outputs, states and gradients by name, for one fixed random direction."""
    softmax_out, linear_out, state = form.token_routed_attention(**given, **options)
    results = {"softmax": softmax_out, "linear": linear_out, **state._asdict()}
    rng = torch.Generator().manual_seed(0)
    loss = sum(
        (value * torch.randn(value.shape, generator=rng, dtype=torch.float64)).sum() for value in results.values()
    )
    leaves = {name: value for name, value in given.items() if value is not None}
    gradients = torch.autograd.grad(loss, list(leaves.values()), allow_unused=True)
    for (name, leaf), gradient in zip(leaves.items(), gradients, strict=True):
        results["d" + name] = torch.zeros_like(leaf) if gradient is None else gradient
    return {name: value.detach() for name, value in results.items()}


def compare(given: dict[str, Any], **options: Any) -> dict[str, Tensor]:
    options = {"chunk": CHUNK} | options
    expected, found = run(reference, given, options), run(chunked, given, options)
    assert expected.keys() == found.keys()
    for name, value in expected.items():
        torch.testing.assert_close(found[name], value, rtol=1e-9, atol=1e-11, msg=f"{name} differs")
    return expected


@pytest.mark.parametrize("tokens", LENGTHS)
@pytest.mark.parametrize("routing", ["mixed", "softmax", "linear"])
def test_agrees_with_the_reference(tokens: int, routing: str) -> None:
    compare(inputs(tokens, routing))


@pytest.mark.parametrize(
    ("own_chunk", "decay_through", "gated"), [*product(("both", "softmax", "linear"), (True, False), (True, False))]
)
def test_agrees_under_every_rule(own_chunk: str, decay_through: bool, gated: bool) -> None:
    given = inputs(61)
    if not gated:
        given["g"] = None
    expected = compare(given, own_chunk=own_chunk, decay_through=decay_through)
    assert expected["droute"].abs().sum() > 0


@pytest.mark.parametrize("chunk", [4, 16, 32, 64])
def test_agrees_at_every_chunk_size(chunk: int) -> None:
    compare(inputs(130, chunk=chunk), chunk=chunk)


def test_agrees_without_an_initial_state_and_with_own_scales() -> None:
    compare({**inputs(61), "initial_state": None}, scale=0.3, linear_scale=0.7)


def test_agrees_under_strong_decay() -> None:
    compare(inputs(61, decay=30.0))


def test_a_decay_of_zero_is_finite() -> None:
    given = inputs(61)
    given["g"] = given["g"].detach().index_fill(1, torch.tensor([3, 8, 20, 60]), -torch.inf).requires_grad_()
    compare(given)


def test_agrees_where_softmax_weights_are_recomputed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(chunked, "KEPT_TOKENS", 0)
    compare(inputs(61), own_chunk="linear")


def test_the_route_is_differentiated_only_where_it_was_taken() -> None:
    given = inputs(61)
    route = given["route"]
    gradient = compare(given)["droute"]
    assert (gradient[route == 0] == 0).all()
    assert (gradient[route == 1] != 0).all()  # tokens 56..60 follow the last complete chunk


def test_route_gradients_are_those_of_a_factor() -> None:
    """Central differences of the two formulas: weight ~ m exp(s), and S' = decayed S + m (net write)."""
    given: dict[str, Any] = {name: value.detach() for name, value in inputs(61).items()}

    def loss(route: Tensor) -> float:
        softmax_out, linear_out, _ = reference.token_routed_attention(**{**given, "route": route}, chunk=CHUNK)
        return float(softmax_out.square().sum() + linear_out.square().sum())

    route = given["route"]
    leaf = route.clone().requires_grad_()
    softmax_out, linear_out, _ = chunked.token_routed_attention(**{**given, "route": leaf}, chunk=CHUNK)
    (gradient,) = torch.autograd.grad(softmax_out.square().sum() + linear_out.square().sum(), leaf)
    for index in route.nonzero().tolist()[::5]:
        step = torch.zeros_like(route)
        step[tuple(index)] = 1e-6
        assert float(gradient[tuple(index)]) == pytest.approx(
            (loss(route + step) - loss(route - step)) / 2e-6, rel=1e-4
        )


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_other_dtypes_keep_outputs_in_their_own_and_states_in_float32(dtype: torch.dtype) -> None:
    given = inputs(61)
    expected = run(reference, dict(given), {"chunk": CHUNK})
    low: dict[str, Any] = {name: value.detach().to(dtype).requires_grad_() for name, value in given.items()}
    softmax_out, linear_out, state = chunked.token_routed_attention(**low, chunk=CHUNK)
    assert softmax_out.dtype == linear_out.dtype == dtype
    assert state.running.dtype == torch.float32
    bound = 1e-5 if dtype == torch.float32 else 2e-2
    for name, value in (("softmax", softmax_out), ("linear", linear_out), *state._asdict().items()):
        error = (value.double() - expected[name]).norm() / expected[name].norm()
        assert error < bound, name


def test_no_query_looks_ahead() -> None:
    given: dict[str, Any] = {name: value.detach() for name, value in inputs(61).items()}
    before = chunked.token_routed_attention(**given, chunk=CHUNK)
    at = 29  # inside chunk 3: earlier tokens of its own chunk must not move either, whatever its type becomes
    changed = {name: value.clone() for name, value in given.items()}
    for name in NAMES[:8]:
        changed[name][:, at] = given[name][:, at - 1]
    changed["route"][:, at // CHUNK] = given["route"][:, at // CHUNK].flip(-1)
    after = chunked.token_routed_attention(**changed, chunk=CHUNK)
    for old, new in zip(before[:2], after[:2], strict=True):
        assert torch.equal(old[:, :at], new[:, :at])
        assert not torch.equal(old[:, at:], new[:, at:])
