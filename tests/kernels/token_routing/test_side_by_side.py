"""Both branches of token routing together, by Triton kernels, against exact forms in float64."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from hybridsearch.kernels.token_routing import chunked, fused, reference

Inputs = list[Tensor | None]
Draw = Callable[..., Inputs]
Compare = Callable[..., None]
Leaves = Callable[[torch.device, int], list[Tensor]]
Branch = Callable[..., tuple[Tensor, ...]]

GPU = torch.cuda.is_available()
TOLERANCE = 5e-3
"""Relative to the norm: in bfloat16, roundings of 2^-9 in a row."""


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"own_chunk": "softmax"},
        {"own_chunk": "linear", "decay_through": False},
        {"chunk": 8},
        {"scale": 0.3, "linear_scale": 0.7},
        {"scale": -0.3},
    ],
    ids=str,
)
def test_the_door_takes_every_setting(
    device: torch.device, attention_inputs: Draw, delta_inputs: Draw, compare: Compare, options: dict[str, Any]
) -> None:
    options = {"chunk": 64} | options
    q, k, v, softmax = attention_inputs(150, chunk=options["chunk"])
    linear_q, linear_k, linear_v, g, beta, _, state = delta_inputs(150, chunk=options["chunk"])
    assert softmax is not None
    inputs = [q, k, v, linear_q, linear_k, linear_v, g, beta, torch.stack((softmax, 1 - softmax), -1), state]

    def through(form: Any) -> Branch:
        def run(*given: Tensor) -> tuple[Tensor, ...]:
            *leaves, initial_state = given
            of_softmax, of_delta, after = form.token_routed_attention(*leaves, initial_state=initial_state, **options)
            return (of_softmax, of_delta, *after)

        return run

    compare(through(fused), through(reference), inputs, device, 6e-3)


@pytest.fixture
def agree(device: torch.device, attention_inputs: Draw, delta_inputs: Draw, compare: Compare) -> Compare:
    def run(tokens: int, size: int, *, stateful: bool = True, gated: bool = True) -> None:
        q, k, v, softmax = attention_inputs(tokens, sizes=(size, size))
        linear_q, linear_k, linear_v, g, beta, linear, state = delta_inputs(
            tokens, size=size, stateful=stateful, gated=gated
        )
        inputs = [q, k, v, softmax, linear_q, linear_k, linear_v, g, beta, linear, state]

        def ours(*given: Any) -> tuple[Tensor, ...]:
            options = {"reads_own": True, "initial_state": given[10]}
            of_softmax, of_delta, after = fused.side_by_side(*given[:10], chunk=64, **options)
            return (of_softmax, of_delta, after.running)

        def oracle(*given: Any) -> tuple[Tensor, ...]:
            of_softmax = chunked.softmax_branch(*given[:4], chunk=64, own_chunk="both", scale=None)
            options = {"reads_own": True, "decay_through": True, "initial_state": given[10]}
            of_delta, after = chunked.linear_branch(*given[4:10], chunk=64, **options)
            return (of_softmax, of_delta, after.running)

        compare(ours, oracle, inputs, device, TOLERANCE, (10, 12) if gated else (11,))

    return run


@pytest.mark.parametrize("tokens", [192, 150], ids=["complete chunks", "an open chunk"])
@pytest.mark.parametrize("stateful", [True, False], ids=["state", "zeros"])
def test_both_branches_side_by_side(agree: Compare, stateful: bool, tokens: int) -> None:
    agree(tokens, 64, stateful=stateful, gated=stateful)


@pytest.mark.skipif(not GPU, reason="large shapes need a GPU")
@pytest.mark.parametrize("tokens", [2048, 2000], ids=["complete chunks", "an open chunk"])
@pytest.mark.parametrize("size", [64, 128])
def test_both_branches_side_by_side_on_the_gpu(agree: Compare, size: int, tokens: int) -> None:
    agree(tokens, size)


@pytest.mark.skipif(not GPU, reason="streams need a GPU")
def test_side_by_side_again_and_again_gives_the_same(device: torch.device, leaves_of_both: Leaves) -> None:
    leaves = leaves_of_both(device, 2048)
    results = []
    for _ in range(20):
        of_softmax, of_delta, _ = fused.token_routed_attention(*leaves, chunk=64)
        results.append(torch.autograd.grad((of_softmax.float() * of_delta.float()).sum(), leaves))
    for result in results[1:]:
        assert all(torch.equal(x, y) for x, y in zip(results[0], result, strict=True))
