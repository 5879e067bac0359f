"""What the tests of the Triton kernels share: inputs of both branches, and the comparison with an exact form."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

SHARES = {"mixed": 0.4, "softmax": 1.0, "linear": 0.0}
# Relative to the norm: exact arithmetic in the interpreter; in bfloat16 roundings of 2^-9 in a row.
TOLERANCES = {torch.float32: 1e-5, torch.bfloat16: 5e-3}
Inputs = list[Tensor | None]
Branch = Callable[..., tuple[Tensor, ...]]


def _routes(batch: int, chunks: int, heads: int, routing: str, seed: int = 0) -> Tensor:
    rng = torch.Generator().manual_seed(seed)
    softmax = torch.rand(batch, chunks, heads, generator=rng) < SHARES[routing]
    return torch.stack((softmax, ~softmax), -1).float()


def _attention_inputs(
    tokens: int,
    *,
    chunk: int = 64,
    heads: tuple[int, int] = (2, 2),
    sizes: tuple[int, int] = (64, 64),
    routing: str = "mixed",
    batch: int = 2,
    dtype: torch.dtype = torch.bfloat16,
) -> Inputs:
    """q, k, v of `heads[0]` softmax heads and the softmax gate of `heads[1]` linear heads."""
    rng = torch.Generator().manual_seed(tokens)
    key, value = sizes
    drawn = [torch.randn(batch, tokens, heads[0], size, generator=rng).to(dtype) for size in (key, key, value)]
    return [*drawn, _routes(batch, tokens // chunk, heads[1], routing)[..., 0]]


def _delta_inputs(
    tokens: int,
    *,
    chunk: int = 64,
    size: int = 64,
    values: int | None = None,
    routing: str = "mixed",
    gated: bool = True,
    stateful: bool = True,
    dtype: torch.dtype = torch.bfloat16,
    batch: int = 2,
    heads: int = 2,
) -> Inputs:
    """q, k, v, g, beta, the linear gate and the initial state."""
    rng = torch.Generator().manual_seed(tokens)

    def normal(*shape: int) -> Tensor:
        return torch.randn(batch, tokens, heads, *shape, generator=rng)

    values = size if values is None else values
    q, k = (torch.nn.functional.normalize(normal(size), dim=-1).to(dtype) for _ in range(2))
    g = -0.2 * normal().exp() if gated else None
    state = torch.randn(batch, heads, size, values, generator=rng) if stateful else None
    gate = _routes(batch, tokens // chunk, heads, routing)[..., 1]
    return [q, k, normal(values).to(dtype), g, normal().sigmoid().to(dtype), gate, state]


def _results(branch: Branch, inputs: Inputs) -> list[Tensor]:
    """Outputs, and the gradients for one fixed random direction."""
    outputs = branch(*inputs)
    rng = torch.Generator().manual_seed(1)
    directions = [torch.randn(x.shape, generator=rng).bfloat16().to(x.device, x.dtype) for x in outputs]
    leaves = [x for x in inputs if x is not None]
    loss = [(x, direction) for x, direction in zip(outputs, directions, strict=True) if x.requires_grad]
    found = torch.autograd.grad([x for x, _ in loss], leaves, [y for _, y in loss], allow_unused=True)
    gradients = [torch.zeros_like(x) if y is None else y for x, y in zip(leaves, found, strict=True)]
    return [x.detach().cpu().double() for x in (*outputs, *gradients)]


def _compare(
    ours: Branch,
    oracle: Branch,
    inputs: Inputs,
    device: torch.device,
    tolerance: float | None = None,
    rough: tuple[int, ...] = (),
) -> None:
    """By default with the tolerance of the first input's dtype.

    Results at `rough` may be off twice as far: the gradients of decay and route are small sums of large terms.
    """
    if tolerance is None:
        assert inputs[0] is not None
        tolerance = TOLERANCES[inputs[0].dtype]
    exact = [None if x is None else x.to(device).double().requires_grad_() for x in inputs]
    moved = [None if x is None else x.to(device).requires_grad_() for x in inputs]
    for index, (found, expected) in enumerate(zip(_results(ours, moved), _results(oracle, exact), strict=True)):
        error = (found - expected).norm() / expected.norm().clamp(min=1e-3)
        assert error <= tolerance * (2 if index in rough else 1), f"result {index}: {error:.1e}"


def _leaves_of_both(device: torch.device, tokens: int) -> list[Tensor]:
    q, k, v, softmax = _attention_inputs(tokens)
    linear = _delta_inputs(tokens)
    assert softmax is not None
    given = [q, k, v, *linear[:5], torch.stack((softmax, 1 - softmax), -1)]
    return [x.to(device).requires_grad_() for x in given if x is not None]


@pytest.fixture
def attention_inputs() -> Callable[..., Inputs]:
    return _attention_inputs


@pytest.fixture
def delta_inputs() -> Callable[..., Inputs]:
    return _delta_inputs


@pytest.fixture
def leaves_of_both() -> Callable[[torch.device, int], list[Tensor]]:
    """q, k, v, of the linear branch q, k, v, g and beta, and the route."""
    return _leaves_of_both


@pytest.fixture
def routes() -> Callable[..., Tensor]:
    """[B, N, H, 2], one-hot: softmax, linear."""
    return _routes


@pytest.fixture
def compare() -> Callable[..., None]:
    """Outputs and all gradients of a branch against an oracle in float64."""
    return _compare
