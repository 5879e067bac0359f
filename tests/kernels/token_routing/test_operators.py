"""What the operators of token routing keep to: autocast, compilation, CUDA graphs, and nothing of the future."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from hybridsearch.kernels.token_routing import fused, joint_operator, operators

Leaves = Callable[[torch.device, int], list[Tensor]]

GPU = torch.cuda.is_available()


def loss_of_both(leaves: list[Tensor]) -> Tensor:
    q, k, v, linear_q, linear_k, linear_v, g, beta, route = leaves
    of_softmax = fused.softmax_branch(q, k, v, route[..., 0], chunk=64, reads_own=True)
    of_delta, state = fused.linear_branch(linear_q, linear_k, linear_v, g, beta, route[..., 1], chunk=64)
    return of_softmax.float().sum() + of_delta.float().sum() + state.running.sum()


def gradients_of_both(leaves: list[Tensor]) -> tuple[Tensor, ...]:
    return torch.autograd.grad(loss_of_both(leaves), leaves)


def test_backward_inside_autocast_gives_the_same(device: torch.device, leaves_of_both: Leaves) -> None:
    leaves = leaves_of_both(device, 100)
    expected = gradients_of_both(leaves)
    loss = loss_of_both(leaves)
    with torch.autocast(device.type, torch.bfloat16):
        found = torch.autograd.grad(loss, leaves)
    assert all(torch.equal(ours, theirs) for ours, theirs in zip(found, expected, strict=True))


def test_nothing_is_read_before_it_is_written(device: torch.device, leaves_of_both: Leaves) -> None:
    leaves = leaves_of_both(device, 100)
    torch.use_deterministic_algorithms(True)  # fills new memory with NaN
    try:
        found = gradients_of_both(leaves)
    finally:
        torch.use_deterministic_algorithms(False)
    assert all(bool(x.isfinite().all()) for x in found)


def test_compiles_into_one_graph(device: torch.device, leaves_of_both: Leaves) -> None:
    leaves = (*leaves_of_both(device, 100)[:3], torch.ones(2, 1, 2, device=device, requires_grad=True))

    def loss(*inputs: Tensor) -> Tensor:
        q, k, v, gate = inputs
        return fused.softmax_branch(2 * q, k, v, gate, chunk=64, reads_own=True).float().sum()

    compiled = torch.compile(loss, fullgraph=True, backend="aot_eager")
    found = torch.autograd.grad(compiled(*leaves), leaves)
    expected = torch.autograd.grad(loss(*leaves), leaves)
    for ours, eager in zip(found, expected, strict=True):
        torch.testing.assert_close(ours, eager)


def test_the_operator_keeps_its_contract(device: torch.device, leaves_of_both: Leaves) -> None:
    q, k, v = leaves_of_both(device, 100)[:3]
    gate = torch.ones(2, 1, 2, device=device, requires_grad=True)
    tests = ("test_schema", "test_faketensor", "test_autograd_registration")
    torch.library.opcheck(operators.routed_softmax.operator, (q, k, v, gate, 0.125, 64, True), test_utils=tests)
    *rows, route = leaves_of_both(device, 64)
    rows.insert(3, route[..., 0])
    options = (route[..., 1], None, 0.125, 0.125, 1, 64, True, True)
    torch.library.opcheck(joint_operator.token_routed.operator, (*rows, *options), test_utils=tests)


def test_nothing_looks_ahead(device: torch.device, leaves_of_both: Leaves) -> None:
    leaves = [x.detach() for x in leaves_of_both(device, 200)]
    q, k, v, linear_q, linear_k, linear_v, g, beta, route = leaves
    at = 140

    def outputs() -> tuple[Tensor, Tensor]:
        of_softmax = fused.softmax_branch(q, k, v, route[..., 0], chunk=64, reads_own=True)
        of_delta, _ = fused.linear_branch(linear_q, linear_k, linear_v, g, beta, route[..., 1], chunk=64)
        return of_softmax[:, :at].clone(), of_delta[:, :at].clone()

    before = outputs()
    for x in leaves[:-1]:
        x[:, at:] = x[:, at:].flip(1)
    route[:, at // 64 :] = 1 - route[:, at // 64 :]
    assert all(torch.equal(x, y) for x, y in zip(before, outputs(), strict=True))


def gradients_side_by_side(leaves: list[Tensor]) -> tuple[Tensor, ...]:
    q, k, v, linear_q, linear_k, linear_v, g, beta, route = leaves
    of_softmax, of_delta, state = fused.side_by_side(
        q, k, v, route[..., 0], linear_q, linear_k, linear_v, g, beta, route[..., 1], chunk=64, reads_own=True
    )
    loss = of_softmax.float().sum() + of_delta.float().square().sum() + state.running.sum()
    return torch.autograd.grad(loss, leaves)


@pytest.mark.skipif(not GPU, reason="CUDA graphs need a GPU")
@pytest.mark.parametrize(("tokens", "form"), [(1000, gradients_of_both), (1024, gradients_side_by_side)])
def test_stands_in_a_cuda_graph_that_is_routed_anew(
    device: torch.device,
    leaves_of_both: Leaves,
    routes: Callable[..., Tensor],
    tokens: int,
    form: Callable[[list[Tensor]], tuple[Tensor, ...]],
) -> None:
    leaves = leaves_of_both(device, tokens)
    stream = torch.cuda.Stream()  # type: ignore[no-untyped-call]
    with torch.cuda.stream(stream):
        form(leaves)
    torch.cuda.synchronize()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph, stream=stream):
        found = form(leaves)
    with torch.no_grad():
        leaves[-1].copy_(routes(2, tokens // 64, 2, "mixed", seed=1))
    graph.replay()
    torch.cuda.synchronize()
    for ours, theirs in zip(found, form(leaves), strict=True):
        assert torch.equal(ours, theirs)
