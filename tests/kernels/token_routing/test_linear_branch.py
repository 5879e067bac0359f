"""The Triton kernels of the linear branch against its PyTorch form in float64: on the GPU, or interpreted."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from hybridsearch.kernels.token_routing import chunked, fused

Compare = Callable[..., None]


@pytest.fixture
def agrees(device: torch.device, delta_inputs: Callable[..., Any], compare: Compare) -> Compare:
    def run(tokens: int, *, chunk: int = 64, **options: Any) -> None:
        inputs = delta_inputs(tokens, chunk=chunk, **options)

        def ours(*given: Any) -> tuple[Tensor, ...]:
            output, state = fused.linear_branch(*given[:6], chunk=chunk, initial_state=given[6])
            return (output, *state)

        def oracle(*given: Any) -> tuple[Tensor, ...]:
            options = {"reads_own": True, "decay_through": True, "initial_state": given[6]}
            output, state = chunked.linear_branch(*given[:6], chunk=chunk, **options)
            return (output, *state)

        rough = (7, 9) if options.get("gated", True) else (8,)
        compare(ours, oracle, inputs, device, rough=rough)

    return run


@pytest.mark.parametrize(
    ("tokens", "options"),
    [
        pytest.param(64, {}, id="complete chunks"),
        pytest.param(70, {"stateful": False}, id="an open chunk"),
        pytest.param(9, {}, id="open chunk alone"),
        pytest.param(50, {"routing": "linear", "gated": False}, id="all linear, no decay"),
        pytest.param(50, {"routing": "softmax", "values": 40}, id="all softmax"),
    ],
)
def test_linear_branch_in_float32(agrees: Compare, tokens: int, options: dict[str, Any]) -> None:
    agrees(tokens, chunk=16, size=16, dtype=torch.float32, **options)


@pytest.mark.parametrize("tokens", [64, 200])
def test_linear_branch_in_bfloat16(agrees: Compare, tokens: int) -> None:
    agrees(tokens)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="large shapes need a GPU")
@pytest.mark.parametrize("size", [64, 128])
@pytest.mark.parametrize("routing", ["mixed", "softmax", "linear"])
@pytest.mark.parametrize("stateful", [True, False], ids=["state", "zeros"])
def test_every_tile_of_the_linear_branch(agrees: Compare, stateful: bool, routing: str, size: int) -> None:
    for tokens in (1000, 1024):
        agrees(tokens, size=size, routing=routing, stateful=stateful)
