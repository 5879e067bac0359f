"""Times kernels on one GPU against plain PyTorch and, where it is installed, flash-linear-attention.

    python benchmarks/kernels.py --operations gated_delta_rule --output benchmarks/results/kernels.json

Every implementation first has its output and gradients compared with float64; one that is wrong is not timed. Times
are medians and quartiles of CUDA graph replays (GPU time) and of eager calls (with the launches), implementations
interleaved, in microseconds; floors are the larger of bytes and matrix products that the operation cannot do without.
An operation joins by a line in `kernel_cases`.
"""

import argparse
import json
import math
import statistics
import sys
import time
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path

import torch
from kernel_cases import OPERATIONS
from kernel_cases.case import Operation, Row, Run, Shape, Spread
from kernel_cases.machine import machine

WRONG = 0.01
"""Relative error above which an implementation is not timed."""


def errors(build: Callable[[Shape], Operation], shape: Shape, name: str) -> dict[str, float]:
    """Relative error of output and gradients, at the small version of the shape."""
    operation = build(shape.small())
    if operation.exact is None or name in operation.peers_only:
        return {}
    leaves = operation.inputs
    doubles = [(x.detach().double() if x.is_floating_point() else x).requires_grad_(x.requires_grad) for x in leaves]
    output, exact = operation.implementations[name](*leaves), operation.exact(*doubles)
    found, expected = {"output": output}, {"output": exact}
    if operation.trained:
        weight = torch.randn_like(output)
        gradients = torch.autograd.grad(output, [x for x in leaves if x.requires_grad], weight)
        exact_gradients = torch.autograd.grad(exact, [x for x in doubles if x.requires_grad], weight.double())
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


def spread(times: list[float]) -> Spread:
    """Median and quartiles."""
    low, median, high = statistics.quantiles(times, n=4)
    return Spread(median, low, high)


def graph_times(runs: dict[str, Callable[[], object]], rounds: int = 15) -> dict[str, Spread]:
    """Microseconds of one replay each, interleaved; what cannot stand in a graph is left out."""
    graphs = {}
    for name, run in runs.items():
        try:
            graphs[name] = captured(run)
        except RuntimeError as failure:
            sys.stderr.write(f"{name}: no CUDA graph: {str(failure).splitlines()[0][:100]}\n")
    taken: dict[str, list[float]] = {name: [] for name in graphs}
    for replay in range(rounds + 2):
        for name, graph in graphs.items():
            start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
            start.record()
            graph.replay()
            end.record()
            torch.cuda.synchronize()
            if replay >= 2:
                taken[name].append(1e3 * start.elapsed_time(end))
    return {name: spread(times) for name, times in taken.items()}


def eager_times(runs: dict[str, Callable[[], object]], rounds: int = 7, calls: int = 8) -> dict[str, Spread]:
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
    return {name: spread(times[1:]) for name, times in taken.items()}


def measure(name: str, build: Callable[[Shape], Operation], shape: Shape, kinds: list[str] | None) -> list[Row]:
    """A row for every implementation, or for those named."""
    operation = build(shape)
    if kinds is not None:
        operation.implementations = {kind: run for kind, run in operation.implementations.items() if kind in kinds}
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
    leaves = [x for x in operation.inputs if x.requires_grad]

    def forward(run: Run) -> Callable[[], object]:
        def call() -> object:
            with torch.no_grad():
                return run(*operation.inputs)

        return call

    def both(run: Run) -> Callable[[], object]:
        weight = torch.randn_like(run(*operation.inputs))
        return lambda: torch.autograd.grad(run(*operation.inputs), leaves, weight, allow_unused=True)

    for prefix, wrap in (("forward", forward), ("both", both)) if operation.trained else (("forward", forward),):
        runs = {kind: wrap(run) for kind, run in right.items()}
        for kind, taken in graph_times(runs).items():
            setattr(rows[kind], f"{prefix}_us", taken)
        for kind, taken in eager_times(runs).items():
            setattr(rows[kind], f"eager_{prefix}_us", taken)
        if prefix == "both":
            with torch.autograd.set_multithreading_enabled(False):
                for kind, taken in eager_times(runs).items():
                    rows[kind].eager_caller_us = taken
    return list(rows.values())


def ratios(rows: list[Row]) -> dict[str, float]:
    """For every operation and peer: the geometric mean of peer's time by ours, over the shapes both ran."""
    ours: dict[tuple[str, str], Spread | None] = {}
    found: dict[str, list[float]] = {}
    for row in rows:
        taken = row.both_us or row.forward_us
        first = ours.setdefault((row.operation, row.shape), taken)
        if first is not taken and first is not None and taken is not None:
            found.setdefault(f"{row.operation}: {row.implementation}", []).append(taken.median / first.median)
    return {name: math.exp(statistics.fmean(map(math.log, times))) for name, times in found.items()}


def line(row: Row) -> str:
    """One line for people."""
    times = (row.forward_us, row.both_us, row.eager_forward_us, row.eager_both_us, row.eager_caller_us)
    text = " ".join("       -" if taken is None else f"{taken.median:8.1f}" for taken in times)
    worst = max(row.errors.values(), default=math.nan)
    floors = f"{row.floor_forward_us:7.1f} {row.floor_both_us:7.1f}"
    return f"{row.operation:18} {row.shape:22} {row.implementation:16}{text} | {floors} | {worst:.1e} {row.failure}\n"


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--operations", nargs="+", choices=OPERATIONS, default=list(OPERATIONS))
    parser.add_argument("--shapes", nargs="+", type=int, help="numbers of the shapes to take, all by default")
    parser.add_argument("--implementations", nargs="+", help="names of those to take, all by default")
    parser.add_argument("--output", type=Path)
    options = parser.parse_args()
    rows: list[Row] = []
    for name in options.operations:
        build, shapes = OPERATIONS[name]
        for index, shape in enumerate(shapes):
            if options.shapes and index not in options.shapes:
                continue
            for row in measure(name, build, shape, options.implementations):
                rows.append(row)
                sys.stdout.write(line(row))
                sys.stdout.flush()
            torch.cuda.empty_cache()
            if options.output:
                record = {"machine": machine(), "unit": "microseconds", "peer time / ours": ratios(rows)}
                options.output.write_text(json.dumps(record | {"rows": [asdict(row) for row in rows]}, indent=1) + "\n")
    for pair, ratio in ratios(rows).items():
        sys.stdout.write(f"{pair}: {ratio:.2f}x ours\n")


if __name__ == "__main__":
    main()
