"""The Triton kernels against the token loop in float64: on the GPU, or in Triton's interpreter where there is none."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from hybridsearch.kernels.gated_scan import chunked, fused, operators, reference

Draw = Callable[..., dict[str, Tensor]]
Results = Callable[..., dict[str, Tensor]]

CPU = torch.device("cpu")
GPU = torch.cuda.is_available()
# Relative to the norm. float32: the GPU's exponential is off by 2^-22 a token, and states remember a hundred tokens.
# bfloat16 rounds h, dx and dg once, and dg is made of the rounded h: each 2^-9 at most.
TOLERANCES = {torch.float32: 1e-5, torch.bfloat16: 3e-3}
DTYPES = pytest.mark.parametrize("dtype", TOLERANCES, ids=["float32", "bfloat16"])


def check(
    results: Results, inputs: dict[str, Tensor], device: torch.device, dtype: torch.dtype, **options: int
) -> None:
    expected = results(reference.gated_scan, inputs, torch.float64, CPU)
    found = results(fused.gated_scan, inputs, dtype, device, **options)
    for name, x in expected.items():
        error = (found[name] - x).norm()
        assert error <= TOLERANCES[dtype] * x.norm(), f"{name}: {float(error / x.norm()):.1e}"


@DTYPES
@pytest.mark.parametrize("stateful", [False, True], ids=["fresh", "state"])
@pytest.mark.parametrize("tokens", [1, 65, 140])
def test_equals_the_token_loop(
    draw: Draw, results: Results, device: torch.device, tokens: int, stateful: bool, dtype: torch.dtype
) -> None:
    check(results, draw(tokens, stateful=stateful), device, dtype)


@pytest.mark.parametrize("stateful", [False, True], ids=["fresh", "state"])
@pytest.mark.parametrize("segments", [2, 3])
def test_any_split_of_the_tokens_gives_the_same(
    draw: Draw, results: Results, device: torch.device, segments: int, stateful: bool
) -> None:
    """The last of 5 or of 3 tiles is a part of one; decays are weak, so that states reach through the segments."""
    inputs = draw(290, 8, batch=1, strength=0.01, stateful=stateful)
    check(results, inputs, device, torch.float32, segments=segments)


@pytest.mark.parametrize("strength", [0.001, 30.0, 1e6], ids=["weak", "strong", "extreme"])
def test_decays_of_any_strength(draw: Draw, results: Results, device: torch.device, strength: float) -> None:
    inputs = draw(150, 8, strength=strength, batch=1)
    inputs["g"][:, ::3] *= 2.0**-10  # tokens that keep almost everything beside tokens that forget
    check(results, inputs, device, torch.float32)


@pytest.mark.parametrize("channels", [1, 70, 136])
def test_any_number_of_channels(draw: Draw, results: Results, device: torch.device, channels: int) -> None:
    check(results, draw(40, channels, batch=1), device, torch.float32)


@pytest.mark.skipif(not GPU, reason="large shapes need a GPU")
@DTYPES
@pytest.mark.parametrize("shape", [(3, 5000, 264), (1, 20000, 64)], ids=["wide", "long"])
@pytest.mark.parametrize("segments", [0, 1, 7])
def test_large_shapes(
    draw: Draw, results: Results, device: torch.device, shape: tuple[int, ...], segments: int, dtype: torch.dtype
) -> None:
    """Against the chunked form in float64, which is itself held to the loop: a loop of 20000 tokens takes minutes."""
    batch, tokens, channels = shape
    inputs = draw(tokens, channels, batch=batch, strength=0.05)
    expected = results(chunked.gated_scan, inputs, torch.float64, device)
    for name, found in results(fused.gated_scan, inputs, dtype, device, segments=segments).items():
        assert (found - expected[name]).norm() <= TOLERANCES[dtype] * expected[name].norm(), name


def test_total_forgetting_is_a_new_start(draw: Draw, device: torch.device) -> None:
    inputs = draw(40)
    inputs["g"][:, 20] = -torch.inf
    x, g, state = (x.float() for x in inputs.values())
    h, last = fused.gated_scan(x.to(device), g.to(device), initial_state=state.to(device))
    late_h, late_last = reference.gated_scan(x[:, 20:], g[:, 20:])
    torch.testing.assert_close(h[:, 20:].cpu(), late_h, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(last.cpu(), late_last, rtol=1e-5, atol=1e-5)


def test_gates_may_be_wider_than_inputs(draw: Draw, device: torch.device) -> None:
    inputs = {name: x.to(device) for name, x in draw(70, batch=1).items()}
    x, g = inputs["x"].bfloat16(), inputs["g"].float().requires_grad_()
    h, last = fused.gated_scan(x, g, initial_state=inputs["initial_state"])
    (d_g,) = torch.autograd.grad(last.sum(), g)
    assert (h.dtype, d_g.dtype) == (torch.bfloat16, torch.float32)
    exact = inputs["g"].clone().requires_grad_()
    _, expected = reference.gated_scan(inputs["x"], exact, initial_state=inputs["initial_state"])
    torch.testing.assert_close(last.double(), expected, rtol=1e-5, atol=1e-5)
    (expected,) = torch.autograd.grad(expected.sum(), exact)
    assert (d_g.double() - expected).norm() <= 3e-3 * expected.norm()


def leaves_of(inputs: dict[str, Tensor], device: torch.device) -> tuple[Tensor, Tensor, Tensor]:
    x, g, state = (x.float().to(device).requires_grad_() for x in inputs.values())
    return x, g, state


def test_gradients_through_the_output_alone(draw: Draw, device: torch.device) -> None:
    inputs = draw(70, batch=1)
    x, g, state = leaves_of(inputs, device)
    found = torch.autograd.grad(fused.gated_scan(x, g, initial_state=state)[0].square().sum(), (x, g, state))
    exact = [x.clone().requires_grad_() for x in inputs.values()]
    h, _ = reference.gated_scan(exact[0], exact[1], initial_state=exact[2])
    for ours, theirs in zip(found, torch.autograd.grad(h.square().sum(), exact), strict=True):
        assert (ours.cpu().double() - theirs).norm() <= 1e-5 * theirs.norm()


def test_nothing_is_read_before_it_is_written(draw: Draw, results: Results, device: torch.device) -> None:
    inputs = draw(130, batch=1)
    torch.use_deterministic_algorithms(True)  # fills new memory with NaN
    try:
        found = results(fused.gated_scan, inputs, torch.float32, device, segments=2)
    finally:
        torch.use_deterministic_algorithms(False)
    assert all(bool(x.isfinite().all()) for x in found.values())


def test_views_with_gaps_are_taken_as_they_are(draw: Draw, device: torch.device) -> None:
    x, g, _ = leaves_of(draw(70, batch=1), device)
    wide = torch.cat((x, g), -1).detach()
    assert torch.equal(fused.gated_scan(wide[..., :24], wide[..., 24:])[0], fused.gated_scan(x, g)[0])


def test_compiles_into_one_graph(draw: Draw, device: torch.device) -> None:
    x, g, _ = leaves_of(draw(70, batch=1), device)

    def loss(x: Tensor, g: Tensor) -> Tensor:
        h, state = fused.gated_scan(2 * x, g, segments=2)
        return h.sum() + state.sum()

    compiled = torch.compile(loss, fullgraph=True, backend="aot_eager")
    found = torch.autograd.grad(compiled(x, g), (x, g))
    for ours, eager in zip(found, torch.autograd.grad(loss(x, g), (x, g)), strict=True):
        torch.testing.assert_close(ours, eager)


def test_the_operators_keep_their_contract(draw: Draw, device: torch.device) -> None:
    x, g, state = leaves_of(draw(65, batch=1), device)
    tests = ("test_schema", "test_faketensor", "test_autograd_registration")
    torch.library.opcheck(operators.gated_scan.operator, (x, g, state, 1), test_utils=tests)
    h = x.detach()
    given = (h, None, g.detach(), h, None, 2)
    torch.library.opcheck(operators.gated_scan_backward.operator, given, test_utils=tests[:2])
    token = (h[:, 0], g.detach()[:, 0], state.detach())
    torch.library.opcheck(operators.gated_scan_step.operator, token, test_utils=tests[:2])


def test_backward_inside_autocast(draw: Draw, device: torch.device) -> None:
    x, g, state = leaves_of(draw(70, batch=1), device)
    expected = torch.autograd.grad(fused.gated_scan(x, g, initial_state=state)[0].sum(), (x, g, state))
    with torch.autocast(device.type, torch.bfloat16):
        found = torch.autograd.grad(fused.gated_scan(x, g, initial_state=state)[0].sum(), (x, g, state))
    assert all(torch.equal(ours, theirs) for ours, theirs in zip(found, expected, strict=True))


@pytest.mark.skipif(not GPU, reason="CUDA graphs need a GPU")
def test_stands_in_a_cuda_graph(draw: Draw, device: torch.device) -> None:
    x, g, state = leaves_of(draw(900, 64), device)

    def step() -> tuple[Tensor, ...]:
        h, last = fused.gated_scan(x, g, initial_state=state, segments=2)
        return torch.autograd.grad((h.sum(), last.sum()), (x, g, state))

    stream = torch.cuda.Stream()  # type: ignore[no-untyped-call]
    with torch.cuda.stream(stream):
        expected = [x.clone() for x in step()]
    torch.cuda.synchronize()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph, stream=stream):
        found = step()
    graph.replay()
    torch.cuda.synchronize()
    assert all(torch.equal(ours, theirs) for ours, theirs in zip(found, expected, strict=True))


@DTYPES
@pytest.mark.parametrize("channels", [5, 2000])
def test_step(draw: Draw, device: torch.device, channels: int, dtype: torch.dtype) -> None:
    x, g, state = (x.to(device) for x in draw(1, channels).values())
    x, g, state = x[:, 0].to(dtype), g[:, 0].to(dtype), state.float()
    before = state.clone()
    for found, expected in zip(fused.gated_scan_step(x, g, state), reference.gated_scan_step(x, g, state), strict=True):
        torch.testing.assert_close(found, expected)
    assert torch.equal(state, before)


def test_refuses_what_no_kernel_serves() -> None:
    assert "needs cuda" in fused.refuses(CPU, torch.bfloat16, 64)
