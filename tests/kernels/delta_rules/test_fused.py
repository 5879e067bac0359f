"""The Triton kernels against the token loop in float64: on the GPU, or in Triton's interpreter where there is none."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

Inputs = dict[str, Tensor | None]
Draw = Callable[..., Inputs]
Results = Callable[..., dict[str, Tensor]]
Case = tuple[tuple[int, ...], dict[str, object], str]

GPU = torch.cuda.is_available()
# Relative to the norm. float32: tf32x3 on the GPU, exact in the interpreter. bfloat16: six roundings of 2^-9 in a row.
TOLERANCES = {torch.float32: 1e-5, torch.bfloat16: 5e-3}


def on(device: torch.device, inputs: Inputs) -> Inputs:
    return {name: None if x is None else x.detach().to(device).requires_grad_() for name, x in inputs.items()}


def compare(rule: Any, draw: Draw, results: Results, device: torch.device, *shape: int, **options: object) -> None:
    """Draws in the dtype, compares everything with the loop over the same numbers in float64."""
    segments = options.pop("segments", None)
    dtype = options.setdefault("dtype", torch.float32)
    assert isinstance(dtype, torch.dtype)
    tolerance = options.pop("tolerance", TOLERANCES[dtype])
    inputs = draw(*shape, **options)
    exact = {n: None if x is None else x.detach().double().requires_grad_() for n, x in inputs.items()}
    expected = results(rule.loop, exact)
    found = results(rule.fused, on(device, inputs), segments=segments)
    for name, value in expected.items():
        error = (found[name].cpu().double() - value).norm() / value.norm().clamp(min=1e-3)
        assert error <= tolerance, f"{name}: {error:.1e}"
    assert found["output"].dtype == dtype and found["state"].dtype == torch.float32


def cases(both: list[Case], gated: list[Case], kimi: list[Case]) -> pytest.MarkDecorator:
    """Shapes, options and names for both rules and for each."""
    marks = {
        # of products of tokens that are no pair, which are not looked at
        "kimi_delta-strong decay": [
            pytest.mark.filterwarnings("ignore:overflow encountered", "ignore:invalid value encountered")
        ]
    }
    listed = []
    for rule, more in ("gated_delta", gated), ("kimi_delta", kimi):
        for shape, options, name in [*both, *more]:
            case = f"{rule}-{name}"
            listed.append(pytest.param(rule, shape, options, id=case, marks=marks.get(case, [])))
    return pytest.mark.parametrize(("rule", "shape", "options"), listed, indirect=["rule"])


@cases(
    both=[
        ((1, 1, 1, 16, 16), {}, "one token"),
        ((2, 65, 2, 16, 16), {"stateful": False}, "two sequences end in a part of a chunk"),
        ((1, 130, 1, 32, 16), {"groups": 2}, "grouped heads"),
        ((1, 64, 1, 24, 40), {}, "sizes that are no powers of two"),
        ((1, 40, 1, 16, 144), {}, "values wider than a tile"),
        ((2, 100, 1, 16, 16), {"segments": 4}, "four segments"),
    ],
    gated=[
        ((1, 70, 1, 16, 32), {"gated": False}, "delta"),
        # sums of 60 a token over a chunk, 2000, are held to 1e-4 in float32, and so are their exponentials
        ((1, 100, 1, 16, 16), {"decay": (-60.0, 0.0), "tolerance": 2e-4}, "strong decay"),
        ((1, 90, 2, 16, 16), {"segments": 3, "gated": False, "stateful": False}, "delta in segments"),
    ],
    kimi=[
        ((1, 70, 1, 16, 32), {"decay": (0.0, 0.0)}, "nothing decays"),
        ((1, 100, 1, 16, 16), {"decay": (-15.9, 0.0)}, "strong decay"),
        ((1, 90, 2, 16, 16), {"segments": 3, "stateful": False}, "three segments, no state"),
    ],
)
def test_float32(
    rule: Any, draw: Draw, results: Results, device: torch.device, shape: tuple[int, ...], options: dict[str, object]
) -> None:
    compare(rule, draw, results, device, *shape, **options)


@cases(
    both=[((1, 130, 2, 64, 64), {}, "64"), ((1, 100, 1, 128, 128), {"groups": 2}, "128")],
    gated=[((1, 150, 1, 64, 32), {"gated": False, "segments": 3}, "delta")],
    kimi=[
        ((1, 150, 1, 64, 32), {"segments": 3}, "three segments"),
        ((1, 70, 4, 64, 64), {"decay": (-4.0, 0.0)}, "blocks of half a chunk"),
        # a few tokens at the end have nearly all of dg: of many heads, lest they be of those whose terms cancel
        ((2, 70, 8, 64, 64), {"decay": (-9.9, 0.0)}, "strong decay"),
    ],
)
def test_bfloat16(
    rule: Any, draw: Draw, results: Results, device: torch.device, shape: tuple[int, ...], options: dict[str, object]
) -> None:
    compare(rule, draw, results, device, *shape, dtype=torch.bfloat16, **options)


@pytest.mark.parametrize(
    ("rule", "gated"),
    [pytest.param("gated_delta", True, id="gated"), pytest.param("gated_delta", False, id="delta")],
    indirect=["rule"],
)
@pytest.mark.parametrize("exponent", [-60, 60])
def test_bfloat16_of_any_magnitude(
    rule: Any, draw: Draw, results: Results, device: torch.device, gated: bool, exponent: int
) -> None:
    """A power of two on the values, or on the gradients, is found again in every result, to the last bit."""
    inputs = draw(1, 70, 1, 64, 64, gated=gated, dtype=torch.bfloat16)
    factor = 2.0**exponent
    expected = results(rule.fused, on(device, inputs))
    scaled = {n: x * factor if n in ("v", "initial_state") and x is not None else x for n, x in inputs.items()}
    found = results(rule.fused, on(device, scaled))
    for name, value in expected.items():
        assert torch.equal(found[name], value if name in ("dv", "dinitial_state") else value * factor), name

    def scaled_rule(*given: Any, **options: Any) -> tuple[Tensor, ...]:
        return tuple(factor * x for x in rule.fused(*given, **options))

    found = results(scaled_rule, on(device, inputs))
    for name, value in expected.items():
        assert torch.equal(found[name], value * factor), name


@pytest.mark.skipif(not GPU, reason="large shapes need a GPU")
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=["float32", "bfloat16"])
@pytest.mark.parametrize(
    "sizes", [(16, 16), (32, 32), (32, 128), (64, 32), (64, 64), (64, 128), (128, 64), (128, 128)], ids=str
)
@pytest.mark.parametrize("segments", [1, 5], ids=["whole", "split"])
def test_every_tile_on_the_gpu(
    rule: Any,
    draw: Draw,
    results: Results,
    device: torch.device,
    sizes: tuple[int, int],
    segments: int,
    dtype: torch.dtype,
) -> None:
    if rule.refuses(device, dtype, sizes[0]):
        pytest.skip(rule.refuses(device, dtype, sizes[0]))
    ungated = {"gated": False, "stateful": False}
    for case in ({}, {"decay": (-5.0, 0.0), "stateful": False} if rule.by_channel else ungated, {"groups": 2}):
        # 16 key channels with a decay each average few roundings: 0.52 % in dg.
        rough = 6e-3 if rule.by_channel and sizes[0] < 32 else TOLERANCES[dtype]
        tolerance = rough if dtype == torch.bfloat16 else TOLERANCES[dtype]
        options = {**case, "dtype": dtype, "segments": segments, "tolerance": tolerance}
        compare(rule, draw, results, device, 2, 700, 2, *sizes, **options)


def test_repeated_keys_written_at_full_strength(rule: Any, draw: Draw, results: Results, device: torch.device) -> None:
    decay: dict[str, object] = {"decay": (0.0, 0.0)} if rule.by_channel else {"gated": False}
    inputs = draw(1, 96, 1, 16, 16, dtype=torch.float32, **decay)
    key, beta = inputs["k"], inputs["beta"]
    assert key is not None and beta is not None
    with torch.no_grad():
        key.copy_(key[:, :1].expand_as(key))
        beta.fill_(1.0)
    exact = {n: None if x is None else x.detach().double().requires_grad_() for n, x in inputs.items()}
    expected = results(rule.loop, exact)
    found = results(rule.fused, on(device, inputs))
    for name, value in expected.items():
        assert (found[name].cpu().double() - value).norm() <= 1e-5 * value.norm(), name


def sequence(device: torch.device, inputs: Inputs) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    q, k, v, g, beta = (inputs[name] for name in ("q", "k", "v", "g", "beta"))
    assert q is not None and k is not None and v is not None and g is not None and beta is not None
    q, k, v, g, beta = (x.detach().to(device).requires_grad_() for x in (q, k, v, g, beta))
    return q, k, v, g, beta


@pytest.mark.parametrize("segments", [1, 2])
def test_gradients_through_the_final_state_alone(rule: Any, draw: Draw, device: torch.device, segments: int) -> None:
    inputs = draw(1, 70, 1, 16, 16, dtype=torch.float32)
    leaves = sequence(device, inputs)
    _, state = rule.fused(*leaves, segments=segments)
    found = torch.autograd.grad(state.square().sum(), leaves[1:])
    exact = sequence(torch.device("cpu"), {n: None if x is None else x.double() for n, x in inputs.items()})
    _, state = rule.loop(*exact)
    expected = torch.autograd.grad(state.square().sum(), exact[1:])
    for ours, theirs in zip(found, expected, strict=True):
        assert (ours.cpu().double() - theirs).norm() <= 1e-5 * theirs.norm()


def test_nothing_is_read_before_it_is_written(rule: Any, draw: Draw, results: Results, device: torch.device) -> None:
    inputs = on(device, draw(2, 70, 1, 16, 16, dtype=torch.float32))
    torch.use_deterministic_algorithms(True)  # fills new memory with NaN
    try:
        found = results(rule.fused, inputs, segments=2)
    finally:
        torch.use_deterministic_algorithms(False)
    assert all(bool(x.isfinite().all()) for x in found.values())


def test_inference_gives_what_training_gives(rule: Any, draw: Draw, device: torch.device) -> None:
    leaves = sequence(device, draw(1, 100, 1, 16, 16, dtype=torch.float32))
    trained, trained_state = rule.fused(*leaves)
    with torch.no_grad():
        output, state = rule.fused(*leaves)
    assert torch.equal(output, trained) and torch.equal(state, trained_state)
    assert not output.requires_grad and trained.requires_grad


def test_views_with_gaps_are_taken_as_they_are(rule: Any, draw: Draw, device: torch.device) -> None:
    q, k, v, g, beta = sequence(device, draw(2, 70, 2, 16, 16, dtype=torch.float32))
    wide = torch.cat((q, k), -1).detach()
    output, _ = rule.fused(wide[..., :16], wide[..., 16:], v, g, beta)
    expected, _ = rule.fused(q, k, v, g, beta)
    assert torch.equal(output, expected)


def test_compiles_into_one_graph(rule: Any, draw: Draw, device: torch.device) -> None:
    leaves = sequence(device, draw(1, 70, 1, 16, 16, dtype=torch.float32))

    def loss(*inputs: Tensor) -> Tensor:
        output, state = rule.fused(*(2 * x for x in inputs), segments=2)
        total: Tensor = output.sum() + state.sum()
        return total

    compiled = torch.compile(loss, fullgraph=True, backend="aot_eager")
    found = torch.autograd.grad(compiled(*leaves), leaves)
    for ours, eager in zip(found, torch.autograd.grad(loss(*leaves), leaves), strict=True):
        torch.testing.assert_close(ours, eager)


@pytest.mark.parametrize("train", [True, False])
def test_the_operators_keep_their_contract(rule: Any, draw: Draw, device: torch.device, train: bool) -> None:
    leaves = sequence(device, draw(1, 65, 1, 16, 16, dtype=torch.float32))
    tests = ("test_schema", "test_faketensor", "test_autograd_registration")
    torch.library.opcheck(rule.operator.operator, (*leaves, None, 0.25, 1, train, *rule.rest), test_utils=tests)


@pytest.mark.skipif(not GPU, reason="CUDA graphs need a GPU")
def test_stands_in_a_cuda_graph(rule: Any, draw: Draw, device: torch.device) -> None:
    leaves = sequence(device, draw(2, 200, 2, 64, 64, dtype=torch.bfloat16))

    def step() -> tuple[Tensor, ...]:
        output, state = rule.fused(*leaves, segments=2)
        return torch.autograd.grad((output.float().sum(), state.sum()), leaves)

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


@pytest.mark.parametrize(
    ("rule", "gated"),
    [
        pytest.param("gated_delta", True, id="gated"),
        pytest.param("gated_delta", False, id="delta"),
        pytest.param("kimi_delta", True, id="kimi"),
    ],
    indirect=["rule"],
)
@pytest.mark.parametrize(("key_size", "value_size"), [(16, 16), (24, 40)])
def test_step(rule: Any, draw: Draw, device: torch.device, gated: bool, key_size: int, value_size: int) -> None:
    inputs = draw(3, 1, 2, key_size, value_size, groups=2, gated=gated, dtype=torch.float32)
    names = ("q", "k", "v", "g", "beta")
    token = [None if x is None else x.detach()[:, 0].to(device) for x in (inputs[n] for n in names)]
    held = inputs["initial_state"]
    assert held is not None
    state = held.detach().to(device)
    before = state.clone()
    output, after = rule.fused_step(*token, state)
    expected, expected_after = rule.loop_step(*token, state)
    torch.testing.assert_close(output, expected)
    torch.testing.assert_close(after, expected_after)
    assert torch.equal(state, before)


def test_refuses_what_no_kernel_serves(rule: Any) -> None:
    assert "needs cuda" in rule.refuses(torch.device("cpu"), torch.bfloat16, 64)
