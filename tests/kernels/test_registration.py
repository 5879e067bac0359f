"""The small operators as torch.compile and CUDA graphs meet them: no graph break, no wait for the device."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from hybridsearch.kernels.cross_entropy import fused as entropy
from hybridsearch.kernels.rms_norm import fused as norms
from hybridsearch.kernels.rotary import fused as rotary
from hybridsearch.kernels.short_conv import fused as convolution
from hybridsearch.kernels.sliding_window import fused as sliding

HEADS = (2, 20, 2, 16)
Losses = Callable[[Tensor, Tensor], Tensor]


def targets(x: Tensor) -> Tensor:
    return torch.arange(x.shape[1], device=x.device) % 16


CALLS: dict[str, Losses] = {
    "sliding_window": lambda x, w: sliding.sliding_window_attention(x, x * w, x, window=6, sinks=1),
    "short_conv": lambda x, w: convolution.short_conv(x.flatten(2), w[:4, None].expand(-1, 32)),
    "rms_norm": lambda x, w: norms.rms_norm(x, w, 1e-6),
    "unit_length": lambda x, w: norms.unit_length(x * w, 1e-6),
    "gated_rms_norm": lambda x, w: norms.gated_rms_norm(x, w, x * w, 1e-6),
    "mixed_rms_norm": lambda x, w: norms.mixed_rms_norm(x, x * w, w, w, w[:2], x, 1e-6),
    "cross_entropy": lambda x, w: entropy.cross_entropy(x[0, :, 0], w * x[0, :16, 1], targets(x)),
    "rotate": lambda x, w: rotary.rotate(x * w, x[0].detach(), x[1].detach()),
}


def leaves(device: torch.device) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    x, w = (torch.randn(shape, generator=generator).to(device) for shape in (HEADS, (16,)))
    return x.requires_grad_(), w.requires_grad_()


def gradients(call: Losses, given: tuple[Tensor, Tensor]) -> tuple[Tensor, ...]:
    return torch.autograd.grad(call(*given).square().sum(), given)


@pytest.mark.parametrize("name", CALLS)
def test_compiles_without_a_graph_break(device: torch.device, name: str) -> None:
    given = leaves(device)
    expected = gradients(CALLS[name], given)
    compiled = torch.compile(CALLS[name], fullgraph=True, backend="aot_eager")
    for ours, theirs in zip(gradients(compiled, given), expected, strict=True):
        torch.testing.assert_close(ours, theirs)


@pytest.mark.parametrize("name", CALLS)
def test_is_met_as_an_operator_where_something_looks_on(device: torch.device, name: str) -> None:
    class Names(TorchDispatchMode):  # type: ignore[no-untyped-call]
        def __torch_dispatch__(self, function: Any, types: Any, arguments: Any = (), options: Any = None) -> Any:
            seen.append(str(function))
            return function(*arguments, **(options or {}))

    given, seen = leaves(device), list[str]()
    expected = gradients(CALLS[name], given)
    with Names():  # type: ignore[no-untyped-call]
        found = gradients(CALLS[name], given)
    assert any(operator.startswith("hybridsearch.") for operator in seen)
    for ours, theirs in zip(found, expected, strict=True):
        assert torch.equal(ours, theirs)


@pytest.mark.parametrize("name", CALLS)
def test_a_second_derivative_is_an_error(device: torch.device, name: str) -> None:
    given = leaves(device)
    loss = CALLS[name](*given).square().sum()
    with pytest.raises(RuntimeError, match="no second derivative"):
        torch.autograd.grad(loss, given, create_graph=True)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="CUDA graphs need a GPU")
@pytest.mark.parametrize("name", CALLS)
def test_stands_in_a_cuda_graph(device: torch.device, name: str) -> None:
    given = leaves(device)
    expected = gradients(CALLS[name], given)
    stream = torch.cuda.Stream()  # type: ignore[no-untyped-call]
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        gradients(CALLS[name], given)
    torch.cuda.current_stream().wait_stream(stream)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph, stream=stream):
        found = gradients(CALLS[name], given)
    graph.replay()
    torch.cuda.synchronize()
    for ours, theirs in zip(found, expected, strict=True):
        torch.testing.assert_close(ours, theirs)
