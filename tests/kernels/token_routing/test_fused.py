"""The Triton kernels against the dense reference in float64: on the GPU, or else in Triton's interpreter."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from hybridsearch.kernels.token_routing import chunked, fused, joint_operator, operators, reference

GPU = torch.cuda.is_available()
# Relative to the norm: exact arithmetic in the interpreter; in bfloat16 roundings of 2^-9 in a row.
TOLERANCES = {torch.float32: 1e-5, torch.bfloat16: 5e-3}
SHARES = {"mixed": 0.4, "softmax": 1.0, "linear": 0.0}
Branch = Callable[..., tuple[Tensor, ...]]


def routes(batch: int, chunks: int, heads: int, routing: str, seed: int = 0) -> Tensor:
    rng = torch.Generator().manual_seed(seed)
    softmax = torch.rand(batch, chunks, heads, generator=rng) < SHARES[routing]
    return torch.stack((softmax, ~softmax), -1).float()


def attention_inputs(
    tokens: int,
    *,
    chunk: int = 64,
    heads: tuple[int, int] = (2, 2),
    sizes: tuple[int, int] = (64, 64),
    routing: str = "mixed",
    batch: int = 2,
    dtype: torch.dtype = torch.bfloat16,
) -> list[Tensor | None]:
    """q, k, v of `heads[0]` softmax heads and the softmax gate of `heads[1]` linear heads."""
    rng = torch.Generator().manual_seed(tokens)
    key, value = sizes
    drawn = [torch.randn(batch, tokens, heads[0], size, generator=rng).to(dtype) for size in (key, key, value)]
    return [*drawn, routes(batch, tokens // chunk, heads[1], routing)[..., 0]]


def delta_inputs(
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
) -> list[Tensor | None]:
    """q, k, v, g, beta, the linear gate and the initial state."""
    rng = torch.Generator().manual_seed(tokens)

    def normal(*shape: int) -> Tensor:
        return torch.randn(batch, tokens, heads, *shape, generator=rng)

    values = size if values is None else values
    q, k = (torch.nn.functional.normalize(normal(size), dim=-1).to(dtype) for _ in range(2))
    g = -0.2 * normal().exp() if gated else None
    state = torch.randn(batch, heads, size, values, generator=rng) if stateful else None
    gate = routes(batch, tokens // chunk, heads, routing)[..., 1]
    return [q, k, normal(values).to(dtype), g, normal().sigmoid().to(dtype), gate, state]


def results(branch: Branch, inputs: list[Tensor | None]) -> list[Tensor]:
    """Outputs, and the gradients for one fixed random direction."""
    outputs = branch(*inputs)
    rng = torch.Generator().manual_seed(1)
    directions = [torch.randn(x.shape, generator=rng).bfloat16().to(x.device, x.dtype) for x in outputs]
    leaves = [x for x in inputs if x is not None]
    loss = [(x, direction) for x, direction in zip(outputs, directions, strict=True) if x.requires_grad]
    found = torch.autograd.grad([x for x, _ in loss], leaves, [y for _, y in loss], allow_unused=True)
    gradients = [torch.zeros_like(x) if y is None else y for x, y in zip(leaves, found, strict=True)]
    return [x.detach().cpu().double() for x in (*outputs, *gradients)]


def compare(
    ours: Branch,
    oracle: Branch,
    inputs: list[Tensor | None],
    device: torch.device,
    tolerance: float,
    rough: tuple[int, ...] = (),
) -> None:
    """Results at `rough` may be off twice as far: the gradients of decay and route are small sums of large terms."""
    exact = [None if x is None else x.to(device).double().requires_grad_() for x in inputs]
    moved = [None if x is None else x.to(device).requires_grad_() for x in inputs]
    for index, (found, expected) in enumerate(zip(results(ours, moved), results(oracle, exact), strict=True)):
        error = (found - expected).norm() / expected.norm().clamp(min=1e-3)
        assert error <= tolerance * (2 if index in rough else 1), f"result {index}: {error:.1e}"


def compare_attention(
    device: torch.device, tokens: int, *, chunk: int = 64, reads_own: bool = True, door: bool = True, **options: Any
) -> None:
    """`door` pads as the door does; without it the operator takes any sizes, which the interpreter can do."""
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

    compare(ours, oracle, inputs, device, TOLERANCES[options.get("dtype", torch.bfloat16)])


def compare_delta(
    device: torch.device, tokens: int, *, chunk: int = 64, tolerance: float | None = None, **options: Any
) -> None:
    inputs = delta_inputs(tokens, chunk=chunk, **options)

    def ours(*given: Any) -> tuple[Tensor, ...]:
        output, state = fused.linear_branch(*given[:6], chunk=chunk, initial_state=given[6])
        return (output, *state)

    def oracle(*given: Any) -> tuple[Tensor, ...]:
        options = {"reads_own": True, "decay_through": True, "initial_state": given[6]}
        output, state = chunked.linear_branch(*given[:6], chunk=chunk, **options)
        return (output, *state)

    allowed = TOLERANCES[options.get("dtype", torch.bfloat16)] if tolerance is None else tolerance
    rough = (7, 9) if options.get("gated", True) else (8,)
    compare(ours, oracle, inputs, device, allowed, rough)


@pytest.mark.skipif(GPU, reason="the GPU has no tiles for these sizes")
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
def test_softmax_branch_in_float32(device: torch.device, tokens: int, options: dict[str, Any]) -> None:
    compare_attention(device, tokens, door=False, dtype=torch.float32, **options)


@pytest.mark.parametrize(
    ("tokens", "options"),
    [
        pytest.param(200, {}, id="64"),
        pytest.param(130, {"sizes": (40, 100), "heads": (2, 1), "batch": 1}, id="sizes that are padded"),
    ],
)
def test_softmax_branch_in_bfloat16(device: torch.device, tokens: int, options: dict[str, Any]) -> None:
    compare_attention(device, tokens, **options)


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
def test_linear_branch_in_float32(device: torch.device, tokens: int, options: dict[str, Any]) -> None:
    compare_delta(device, tokens, chunk=16, size=16, dtype=torch.float32, **options)


@pytest.mark.parametrize("tokens", [64, 200])
def test_linear_branch_in_bfloat16(device: torch.device, tokens: int) -> None:
    compare_delta(device, tokens)


@pytest.mark.skipif(not GPU, reason="large shapes need a GPU")
@pytest.mark.parametrize("sizes", [(64, 64), (64, 128), (128, 128)], ids=lambda sizes: "K{}-V{}".format(*sizes))
@pytest.mark.parametrize("chunk", [16, 32, 64, 128], ids="chunk{}".format)
@pytest.mark.parametrize("routing", ["mixed", "softmax", "linear"])
def test_every_tile_of_the_softmax_branch(
    device: torch.device, routing: str, chunk: int, sizes: tuple[int, int]
) -> None:
    for tokens, reads_own in ((1000, True), (1024, False)):
        compare_attention(device, tokens, chunk=chunk, routing=routing, sizes=sizes, reads_own=reads_own, heads=(4, 2))


@pytest.mark.skipif(not GPU, reason="large shapes need a GPU")
@pytest.mark.parametrize("size", [64, 128])
@pytest.mark.parametrize("routing", ["mixed", "softmax", "linear"])
@pytest.mark.parametrize("stateful", [True, False], ids=["state", "zeros"])
def test_every_tile_of_the_linear_branch(device: torch.device, stateful: bool, routing: str, size: int) -> None:
    for tokens in (1000, 1024):
        compare_delta(device, tokens, size=size, routing=routing, stateful=stateful)


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
def test_the_door_takes_every_setting(device: torch.device, options: dict[str, Any]) -> None:
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


def compare_both(device: torch.device, tokens: int, size: int, *, stateful: bool = True, gated: bool = True) -> None:
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

    compare(ours, oracle, inputs, device, TOLERANCES[torch.bfloat16], (10, 12) if gated else (11,))


@pytest.mark.parametrize("stateful", [True, False], ids=["state", "zeros"])
def test_both_branches_side_by_side(device: torch.device, stateful: bool) -> None:
    compare_both(device, 192, 64, stateful=stateful, gated=stateful)


@pytest.mark.skipif(not GPU, reason="large shapes need a GPU")
@pytest.mark.parametrize("size", [64, 128])
def test_both_branches_side_by_side_on_the_gpu(device: torch.device, size: int) -> None:
    compare_both(device, 2048, size)


@pytest.mark.skipif(not GPU, reason="streams need a GPU")
def test_side_by_side_again_and_again_gives_the_same(device: torch.device) -> None:
    leaves = leaves_of_both(device, 2048)
    results = []
    for _ in range(20):
        of_softmax, of_delta, _ = fused.token_routed_attention(*leaves, chunk=64)
        results.append(torch.autograd.grad((of_softmax.float() * of_delta.float()).sum(), leaves))
    for result in results[1:]:
        assert all(torch.equal(x, y) for x, y in zip(results[0], result, strict=True))


def leaves_of_both(device: torch.device, tokens: int) -> list[Tensor]:
    q, k, v, softmax = attention_inputs(tokens)
    linear = delta_inputs(tokens)
    assert softmax is not None
    given = [q, k, v, *linear[:5], torch.stack((softmax, 1 - softmax), -1)]
    return [x.to(device).requires_grad_() for x in given if x is not None]


def loss_of_both(leaves: list[Tensor]) -> Tensor:
    q, k, v, linear_q, linear_k, linear_v, g, beta, route = leaves
    of_softmax = fused.softmax_branch(q, k, v, route[..., 0], chunk=64, reads_own=True)
    of_delta, state = fused.linear_branch(linear_q, linear_k, linear_v, g, beta, route[..., 1], chunk=64)
    return of_softmax.float().sum() + of_delta.float().sum() + state.running.sum()


def gradients_of_both(leaves: list[Tensor]) -> tuple[Tensor, ...]:
    return torch.autograd.grad(loss_of_both(leaves), leaves)


def test_backward_inside_autocast_gives_the_same(device: torch.device) -> None:
    leaves = leaves_of_both(device, 100)
    expected = gradients_of_both(leaves)
    loss = loss_of_both(leaves)
    with torch.autocast(device.type, torch.bfloat16):
        found = torch.autograd.grad(loss, leaves)
    assert all(torch.equal(ours, theirs) for ours, theirs in zip(found, expected, strict=True))


def test_nothing_is_read_before_it_is_written(device: torch.device) -> None:
    leaves = leaves_of_both(device, 100)
    torch.use_deterministic_algorithms(True)  # fills new memory with NaN
    try:
        found = gradients_of_both(leaves)
    finally:
        torch.use_deterministic_algorithms(False)
    assert all(bool(x.isfinite().all()) for x in found)


def test_compiles_into_one_graph(device: torch.device) -> None:
    leaves = (*leaves_of_both(device, 100)[:3], torch.ones(2, 1, 2, device=device, requires_grad=True))

    def loss(*inputs: Tensor) -> Tensor:
        q, k, v, gate = inputs
        return fused.softmax_branch(2 * q, k, v, gate, chunk=64, reads_own=True).float().sum()

    compiled = torch.compile(loss, fullgraph=True, backend="aot_eager")
    found = torch.autograd.grad(compiled(*leaves), leaves)
    expected = torch.autograd.grad(loss(*leaves), leaves)
    for ours, eager in zip(found, expected, strict=True):
        torch.testing.assert_close(ours, eager)


def test_the_operator_keeps_its_contract(device: torch.device) -> None:
    q, k, v = leaves_of_both(device, 100)[:3]
    gate = torch.ones(2, 1, 2, device=device, requires_grad=True)
    tests = ("test_schema", "test_faketensor", "test_autograd_registration")
    torch.library.opcheck(operators.routed_softmax, (q, k, v, gate, 0.125, 64, True), test_utils=tests)
    *rows, route = leaves_of_both(device, 64)
    rows.insert(3, route[..., 0])
    options = (route[..., 1], None, 0.125, 0.125, 1, 64, True, True)
    torch.library.opcheck(joint_operator.token_routed, (*rows, *options), test_utils=tests)


def test_nothing_looks_ahead(device: torch.device) -> None:
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
    device: torch.device, tokens: int, form: Callable[[list[Tensor]], tuple[Tensor, ...]]
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


def test_refuses_what_no_kernel_serves() -> None:
    assert "needs cuda" in fused.refuses(torch.device("cpu"), torch.bfloat16, 64)
