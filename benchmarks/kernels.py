"""Times kernels on one GPU against plain PyTorch and, where it is installed, flash-linear-attention.

    python benchmarks/kernels.py --operations gated_delta_rule --output benchmarks/results/kernels.json

Every implementation first has its output and gradients compared with float64; one that is wrong is not timed. Times
are medians of CUDA graph replays (GPU time) and of eager calls (with the launches), implementations interleaved, in
microseconds; floors are the larger of bytes and matrix products that the operation cannot do without. An operation
joins by one function in `OPERATIONS`.
"""

import argparse
import json
import platform
import statistics
import sys
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import logsigmoid, normalize

from hybridsearch.kernels.gated_delta import chunked, fused, reference

BYTES_PER_SECOND, FLOPS_PER_SECOND = 4.3e12, 790e12
"""One H200: a large copy, read and written, and a bfloat16 matrix product of 8192, as measured."""
WRONG = 0.01
"""Relative error above which an implementation is not timed."""


@dataclass(frozen=True)
class Shape:
    """Sizes of one run."""

    batch: int
    tokens: int
    heads: int
    size: int

    def __str__(self) -> str:
        return f"B{self.batch} T{self.tokens} H{self.heads} D{self.size}"


SHAPES = (
    Shape(32, 512, 4, 64),
    Shape(8, 2048, 8, 64),
    Shape(8, 4096, 8, 128),
    Shape(2, 16384, 8, 128),
    Shape(1, 65536, 8, 128),
)
STEPS = tuple(Shape(batch, 1, heads, size) for heads, size in ((4, 64), (8, 128)) for batch in (1, 16, 128))

Run = Callable[..., Tensor]


@dataclass
class Operation:
    """One operation at one shape."""

    inputs: list[Tensor]
    """Leaves; all want gradients if `trained`."""
    implementations: dict[str, Run]
    """From the inputs to the output; the first is ours."""
    exact: Run
    """The same in float64."""
    floor_us: dict[str, float]
    """Of "forward" and "both" (forward and backward)."""
    trained: bool = True


@dataclass
class Row:
    """What one implementation took."""

    operation: str
    shape: str
    implementation: str
    errors: dict[str, float] = field(default_factory=dict)
    forward_us: float | None = None
    both_us: float | None = None
    eager_forward_us: float | None = None
    eager_both_us: float | None = None
    floor_forward_us: float | None = None
    floor_both_us: float | None = None
    failure: str = ""


def gated_inputs(shape: Shape, gated: bool) -> list[Tensor]:
    """q, k, v, (g,) beta as a trained layer gives them: unit keys, decay sigmoid(N(3, 1)), beta sigmoid(N(0, 1))."""
    generator = torch.Generator(device="cuda").manual_seed(shape.tokens + shape.size)

    def normal(*sizes: int) -> Tensor:
        return torch.randn(*sizes, device="cuda", generator=generator)

    rows = (shape.batch, shape.tokens, shape.heads)
    q, k = (normalize(normal(*rows, shape.size), dim=-1).bfloat16() for _ in range(2))
    inputs = [q, k, normal(*rows, shape.size).bfloat16()]
    return [*inputs, *([logsigmoid(normal(*rows) + 3)] if gated else []), normal(*rows).sigmoid().bfloat16()]


def delta_floor(shape: Shape, gated: bool) -> dict[str, float]:
    """Bytes of inputs and outputs once; products of the chunked form with chunks of 64."""
    rows, size = shape.batch * shape.tokens * shape.heads, shape.size
    gates = 6 if gated else 2
    forward_bytes, backward_bytes = rows * (8 * size + gates), rows * (14 * size + 2 * gates)
    forward_flops, backward_flops = rows * (6 * size**2 + 640 * size), rows * (12 * size**2 + 1152 * size)
    return {
        "forward": 1e6 * max(forward_bytes / BYTES_PER_SECOND, forward_flops / FLOPS_PER_SECOND),
        "both": 1e6
        * max((forward_bytes + backward_bytes) / BYTES_PER_SECOND, (forward_flops + backward_flops) / FLOPS_PER_SECOND),
    }


def fla_gated_delta(gated: bool) -> Run | None:
    """flash-linear-attention's operation; its guard against Triton before 3.7.1 on Hopper is lifted (errors tell)."""
    try:
        from fla.ops.common import chunk_o
        from fla.ops.delta_rule import chunk_delta_rule
        from fla.ops.gated_delta_rule import chunk_gated_delta_rule
    except ImportError:
        return None
    chunk_o.TRITON_ABOVE_3_7_1 = True
    rule = chunk_gated_delta_rule if gated else chunk_delta_rule
    return lambda *inputs: rule(*inputs)[0]


def gated_delta_rule(shape: Shape, gated: bool = True) -> Operation:
    """Training of the gated delta rule (or, without g, the delta rule)."""

    def with_gate(rule: Callable[..., tuple[Tensor, Tensor]], **options: Any) -> Run:
        def run(*inputs: Tensor) -> Tensor:
            q, k, v, *gates = inputs
            return rule(q, k, v, gates[0] if gated else None, gates[-1], **options)[0]

        return run

    implementations = {"triton": with_gate(fused.gated_delta_rule)}
    peer = fla_gated_delta(gated)
    if peer is not None:
        implementations["fla"] = peer
    inputs = [x.requires_grad_() for x in gated_inputs(shape, gated)]
    return Operation(inputs, implementations, with_gate(chunked.gated_delta_rule, chunk=64), delta_floor(shape, gated))


def delta_rule(shape: Shape) -> Operation:
    """Training of the delta rule."""
    return gated_delta_rule(shape, gated=False)


def gated_delta_step(shape: Shape) -> Operation:
    """One decoding step; the state is read and written once."""
    token = [x[:, 0] for x in gated_inputs(shape, gated=True)]
    state = torch.randn(shape.batch, shape.heads, shape.size, shape.size, device="cuda")

    def run(*inputs: Tensor) -> Tensor:
        return fused.gated_delta_step(*inputs)[0]

    implementations: dict[str, Run] = {"triton": run, "torch": lambda *inputs: reference.gated_delta_step(*inputs)[0]}
    try:
        from fla.ops.gated_delta_rule import fused_recurrent_gated_delta_rule
    except ImportError:
        pass
    else:

        def peer(*inputs: Tensor) -> Tensor:
            q, k, v, g, beta, now = inputs
            lone = (x[:, None] for x in (q, k, v, g))
            step = fused_recurrent_gated_delta_rule
            output: Tensor = step(*lone, beta=beta[:, None], initial_state=now, output_final_state=True)[0]
            return output[:, 0]

        implementations["fla"] = peer
    floor = 1e6 * 8 * state.numel() / BYTES_PER_SECOND
    exact: Run = lambda *inputs: reference.gated_delta_step(*inputs)[0]  # noqa: E731
    return Operation([*token, state], implementations, exact, {"forward": floor, "both": floor}, trained=False)


OPERATIONS: dict[str, tuple[Callable[[Shape], Operation], tuple[Shape, ...]]] = {
    "gated_delta_rule": (gated_delta_rule, SHAPES),
    "delta_rule": (delta_rule, SHAPES),
    "gated_delta_step": (gated_delta_step, STEPS),
}


def errors(build: Callable[[Shape], Operation], shape: Shape, name: str) -> dict[str, float]:
    """Relative error of output and gradients, at the shape cut to 2 sequences of 640 tokens."""
    small = Shape(min(shape.batch, 2), min(shape.tokens, 640), shape.heads, shape.size)
    operation = build(small)
    leaves = operation.inputs
    doubles = [x.detach().double().requires_grad_(x.requires_grad) for x in leaves]
    output, exact = operation.implementations[name](*leaves), operation.exact(*doubles)
    found, expected = {"output": output}, {"output": exact}
    if operation.trained:
        weight = torch.randn_like(output)
        gradients = torch.autograd.grad(output, leaves, weight)
        exact_gradients = torch.autograd.grad(exact, doubles, weight.double())
        for index, pair in enumerate(zip(gradients, exact_gradients, strict=True)):
            found[f"gradient {index}"], expected[f"gradient {index}"] = pair
    return {key: float((found[key].double() - expected[key]).norm() / expected[key].norm()) for key in found}


def captured(run: Callable[[], object]) -> torch.cuda.CUDAGraph:
    """The call as a CUDA graph, after two calls to warm up."""
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        for _ in range(2):
            run()
    torch.cuda.synchronize()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph, stream=stream):
        run()
    return graph


def graph_medians(runs: dict[str, Callable[[], object]], rounds: int = 15) -> dict[str, float]:
    """Microseconds of one replay each, interleaved."""
    graphs = {name: captured(run) for name, run in runs.items()}
    taken: dict[str, list[float]] = {name: [] for name in runs}
    for replay in range(rounds + 2):
        for name, graph in graphs.items():
            start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
            start.record()
            graph.replay()
            end.record()
            torch.cuda.synchronize()
            if replay >= 2:
                taken[name].append(1e3 * start.elapsed_time(end))
    return {name: statistics.median(times) for name, times in taken.items()}


def eager_medians(runs: dict[str, Callable[[], object]], rounds: int = 7, calls: int = 8) -> dict[str, float]:
    """Microseconds of one call in a row of `calls`, by the host's clock."""
    taken: dict[str, list[float]] = {name: [] for name in runs}
    for _ in range(rounds + 1):
        for name, run in runs.items():
            torch.cuda.synchronize()
            start = time.perf_counter()
            for _ in range(calls):
                run()
            torch.cuda.synchronize()
            taken[name].append(1e6 * (time.perf_counter() - start) / calls)
    return {name: statistics.median(times[1:]) for name, times in taken.items()}


def measure(name: str, build: Callable[[Shape], Operation], shape: Shape) -> list[Row]:
    """A row for every implementation."""
    operation = build(shape)
    rows = {kind: Row(name, str(shape), kind) for kind in operation.implementations}
    for kind, row in rows.items():
        row.floor_forward_us, row.floor_both_us = operation.floor_us["forward"], operation.floor_us["both"]
        try:
            row.errors = errors(build, shape, kind)
        except Exception as failure:  # a peer that cannot run is a row, not the end
            row.failure = f"{type(failure).__name__}: {failure}"[:200]
        if any(not error <= WRONG for error in row.errors.values()):
            row.failure = "wrong"
    right = {kind: operation.implementations[kind] for kind, row in rows.items() if not row.failure}
    weight = torch.randn_like(next(iter(right.values()))(*operation.inputs))

    def forward(run: Run) -> Callable[[], object]:
        def call() -> object:
            with torch.no_grad():
                return run(*operation.inputs)

        return call

    def both(run: Run) -> Callable[[], object]:
        return lambda: torch.autograd.grad(run(*operation.inputs), operation.inputs, weight)

    for prefix, wrap in (("forward", forward), ("both", both)) if operation.trained else (("forward", forward),):
        runs = {kind: wrap(run) for kind, run in right.items()}
        for kind, taken in graph_medians(runs).items():
            setattr(rows[kind], f"{prefix}_us", taken)
        for kind, taken in eager_medians(runs).items():
            setattr(rows[kind], f"eager_{prefix}_us", taken)
    return list(rows.values())


def machine() -> dict[str, str]:
    """What the numbers belong to."""
    import triton

    found = {"gpu": torch.cuda.get_device_name(), "torch": torch.__version__, "triton": triton.__version__}
    found["python"] = platform.python_version()
    try:
        import fla

        found["fla"] = fla.__version__
    except ImportError:
        pass
    return found


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--operations", nargs="+", choices=OPERATIONS, default=list(OPERATIONS))
    parser.add_argument("--shapes", nargs="+", type=int, help="numbers of the shapes to take, all by default")
    parser.add_argument("--output", type=Path)
    options = parser.parse_args()
    rows: list[Row] = []
    for name in options.operations:
        build, shapes = OPERATIONS[name]
        for index, shape in enumerate(shapes):
            if options.shapes and index not in options.shapes:
                continue
            for row in measure(name, build, shape):
                rows.append(row)
                numbers = (row.forward_us, row.both_us, row.eager_forward_us, row.eager_both_us)
                text = " ".join("       -" if number is None else f"{number:8.1f}" for number in numbers)
                worst = max(row.errors.values(), default=float("nan"))
                sys.stdout.write(f"{name:18} {row.shape:22} {row.implementation:7}{text}  {worst:.1e} {row.failure}\n")
                sys.stdout.flush()
            torch.cuda.empty_cache()
            if options.output:
                record = {"machine": machine(), "unit": "microseconds, medians", "rows": [asdict(row) for row in rows]}
                options.output.write_text(json.dumps(record, indent=1) + "\n")


if __name__ == "__main__":
    main()
