"""The Triton kernels of the softmax branch against the dense reference in float64: on the GPU, or interpreted."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from hybridsearch.kernels.token_routing import chunked, fused, operators, reference

Compare = Callable[..., None]


@pytest.fixture
def agrees(device: torch.device, attention_inputs: Callable[..., Any], compare: Compare) -> Compare:
    """Compares the branch; with `door` it pads as the door does, without the operator takes any sizes (interpreter)."""

    def run(tokens: int, *, chunk: int = 64, reads_own: bool = True, door: bool = True, **options: Any) -> None:
        inputs = attention_inputs(tokens, chunk=chunk, **options)

        def ours(q: Tensor, k: Tensor, v: Tensor, gate: Tensor) -> tuple[Tensor]:
            if door:
                return (fused.softmax_branch(q, k, v, gate, chunk=chunk, reads_own=reads_own),)
            return (operators.routed_softmax(q, k, v, gate, q.shape[-1] ** -0.5, chunk, reads_own)[0],)

        def oracle(q: Tensor, k: Tensor, v: Tensor, gate: Tensor) -> tuple[Tensor]:
            own_chunk: reference.OwnChunk = "both" if reads_own else "linear"
            if tokens > 200:
                return (chunked.softmax_branch(q, k, v, gate, chunk=chunk, own_chunk=own_chunk, scale=None),)
            return (reference._softmax_branch(q, k, v, gate, chunk, own_chunk, None),)

        compare(ours, oracle, inputs, device)

    return run


@pytest.mark.skipif(torch.cuda.is_available(), reason="the GPU has no tiles for these sizes")
@pytest.mark.parametrize(
    ("tokens", "options"),
    [
        pytest.param(200, {"sizes": (32, 32)}, id="several tiles"),
        pytest.param(30, {"sizes": (32, 32)}, id="open chunk alone"),
        pytest.param(130, {"sizes": (32, 32), "chunk": 16, "heads": (4, 2)}, id="short chunks, two heads a route"),
        pytest.param(300, {"sizes": (32, 32), "chunk": 128, "batch": 1}, id="long chunks"),
        pytest.param(150, {"sizes": (32, 64), "chunk": 16, "reads_own": False}, id="own chunk not read"),
        pytest.param(140, {"sizes": (32, 32), "reads_own": False, "routing": "linear"}, id="no key at all"),
        pytest.param(140, {"sizes": (32, 32), "routing": "softmax"}, id="all softmax"),
    ],
)
def test_softmax_branch_in_float32(agrees: Compare, tokens: int, options: dict[str, Any]) -> None:
    agrees(tokens, door=False, dtype=torch.float32, **options)


@pytest.mark.parametrize(
    ("tokens", "options"),
    [
        pytest.param(200, {}, id="64"),
        pytest.param(130, {"sizes": (40, 100), "heads": (2, 1), "batch": 1}, id="sizes that are padded"),
    ],
)
def test_softmax_branch_in_bfloat16(agrees: Compare, tokens: int, options: dict[str, Any]) -> None:
    agrees(tokens, **options)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="large shapes need a GPU")
@pytest.mark.parametrize("sizes", [(64, 64), (64, 128), (128, 128)], ids=lambda sizes: "K{}-V{}".format(*sizes))
@pytest.mark.parametrize("chunk", [16, 32, 64, 128], ids="chunk{}".format)
@pytest.mark.parametrize("routing", ["mixed", "softmax", "linear"])
def test_every_tile_of_the_softmax_branch(agrees: Compare, routing: str, chunk: int, sizes: tuple[int, int]) -> None:
    for tokens, reads_own in ((1000, True), (1024, False)):
        agrees(tokens, chunk=chunk, routing=routing, sizes=sizes, reads_own=reads_own, heads=(4, 2))


@pytest.mark.skipif(not torch.cuda.is_available(), reason="large shapes need a GPU")
@pytest.mark.parametrize("sizes", [(64, 64), (64, 128), (128, 128)], ids=lambda sizes: "K{}-V{}".format(*sizes))
@pytest.mark.parametrize("reads_own", [True, False], ids=["own chunk", "earlier chunks alone"])
def test_the_tile_of_long_sequences(agrees: Compare, reads_own: bool, sizes: tuple[int, int]) -> None:
    agrees(operators.LONG + 108, sizes=sizes, reads_own=reads_own, batch=1)


def test_refuses_what_no_kernel_serves() -> None:
    assert "needs cuda" in fused.refuses(torch.device("cpu"), torch.bfloat16, 64)
