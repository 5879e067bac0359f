"""Train and measure many architectures of a space on one GPU: the raw records of a table.

`python benchmarks/build_table.py --output records.jsonl` trains architectures of the space `tiny` at every rung and
seed, hundreds of models as one (`hybridsearch.training.stacked`), then measures each architecture alone on the device:
the time of a training step as a search would run it, and decoding from a CUDA graph. One line of JSON an architecture
is appended as soon as it is complete, so that a run may be killed, and go on with the same command.
`hybridsearch table build records.jsonl --output TABLE.parquet` turns the lines into a table.
"""

import argparse
import json
import random
import statistics
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from hybridsearch.kernels import dispatch
from hybridsearch.models.language_model import LanguageModel
from hybridsearch.models.routing import softmax_share
from hybridsearch.search_spaces import catalog
from hybridsearch.search_spaces.controls import controls
from hybridsearch.search_spaces.space import Space
from hybridsearch.seeds import derive
from hybridsearch.settings import EvaluationSettings
from hybridsearch.spec.architecture import Architecture
from hybridsearch.spec.canonical import canonical_json, content_hash
from hybridsearch.tabular import parquet
from hybridsearch.tasks import recall
from hybridsearch.training.replicate import Plan, Replicate
from hybridsearch.training.stacked import Member, Stack
from hybridsearch.workers import device as machine
from hybridsearch.yaml_files import read

SPACE = "tiny"
SETTINGS = Path(__file__).parent / "table.yaml"
ORDER_SEED = 20_250
"""Of the order in which architectures are trained: any beginning of it is an even sample of the space."""
TRAIN_REPEATS = 3
"""Timed training steps of a model, after one to warm up."""
SAFE = 0.85
"""Share of the time left that a last, smaller wave is planned for."""
SMALLEST = 15
"""Architectures below which a wave is not worth its start."""
DECODE_REPEATS = 9
DECODE_STEPS = 20
"""Tokens of one repeat: replays of the captured step, each from the same memory."""


def plain_pytorch() -> None:
    """Let every operation run by its plain PyTorch implementation, the last one of each row of the dispatch table."""
    table: dict[str, tuple[dispatch.Implementation, ...]] = dispatch.TABLE

    def last(operation: str, *_: object) -> dispatch.Implementation:
        return table[operation][-1]

    dispatch.choose = last  # type: ignore[assignment]


def ordered(space: Space) -> list[Architecture]:
    """The controls, then every other architecture of the space in a fixed random order."""
    listing = list(space.listing or ())
    first = {content_hash(a): a for a in controls(space).values()}
    random.Random(ORDER_SEED).shuffle(listing)
    return [*first.values(), *(a for a in listing if content_hash(a) not in first)]


def trained(
    architectures: Sequence[Architecture],
    seeds: int,
    evaluation: EvaluationSettings,
    device: torch.device,
    *,
    graphs: bool = True,
) -> tuple[Stack, list[list[dict[str, float]]], float]:
    """A stack of every architecture with every seed (seeds of one beside each other), its scores by rung, its time."""
    started = time.perf_counter()
    members = [Member(architecture=a, seed=derive(0, "table", seed)) for a in architectures for seed in range(seeds)]
    stack = Stack(members, evaluation, device, graphs=graphs)
    scores = []
    for steps in evaluation.rungs.steps:
        stack.advance(steps)
        scores.append(stack.score())
    return stack, scores, time.perf_counter() - started


@dataclass(frozen=True, slots=True)
class Decoding:
    """A captured decode step with what it needs alive."""

    graph: torch.cuda.CUDAGraph
    held: tuple[object, ...]
    cache_bytes: float
    """Of one sequence."""
    share: float | None


def decoding(model: LanguageModel, evaluation: EvaluationSettings, generator: torch.Generator) -> Decoding:
    """Prefill a prompt of the last context and batch, decode one token, and capture the step of the next one."""
    context, batch = evaluation.throughput.contexts[-1], evaluation.throughput.batches[-1]
    model.eval()
    row = recall.tokens(evaluation.task, batch, context + 2, generator)
    with torch.inference_mode():
        hidden, memory = model.prefill(row[:, :context])
        size, share = memory.bytes() / batch, softmax_share(model)
        model.step(row[:, context], memory)
        token = row[:, context + 1].clone()
        model.step(token, memory.copy())
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            hidden, _ = model.step(token, memory)
            choice = model.logits(hidden).argmax(-1)
    return Decoding(graph, (model, memory, token, choice), size, share)


def clocked(work: Callable[[], object]) -> float:
    """Seconds of work on the GPU, started on an idle one."""
    torch.cuda.synchronize()
    started = time.perf_counter()
    work()
    torch.cuda.synchronize()
    return time.perf_counter() - started


def quartiles(rates: Sequence[float]) -> tuple[float, float, float]:
    """First quartile, median, third quartile."""
    low, middle, high = statistics.quantiles(sorted(rates), n=4, method="inclusive")
    return low, middle, high


def measured(
    models: Sequence[LanguageModel], evaluation: EvaluationSettings, device: torch.device
) -> list[dict[str, Any]]:
    """Throughput of every model; repeats of all models take turns."""
    generator = torch.Generator(device).manual_seed(derive(0, "timing"))
    ready = [decoding(model, evaluation, generator) for model in models]
    seconds: list[list[float]] = [[] for _ in models]

    def decode(step: Decoding) -> Callable[[], None]:
        def work() -> None:
            for _ in range(DECODE_STEPS):
                step.graph.replay()

        return work

    for step in ready:
        clocked(decode(step))
    for _ in range(DECODE_REPEATS):
        for taken, step in zip(seconds, ready, strict=True):
            taken.append(clocked(decode(step)))
    tokens = evaluation.throughput.batches[-1] * DECODE_STEPS
    found = []
    for taken, step, model in zip(seconds, ready, models, strict=True):
        low, middle, high = quartiles([tokens / spent for spent in taken])
        train_low, train_middle, train_high = quartiles(training_steps(model.architecture, evaluation, device))
        found.append(
            {
                "decode_tokens_per_second": [low, middle, high],
                "train_step_seconds": [train_low, train_middle, train_high],
                "cache_bytes": step.cache_bytes,
                "softmax_share": step.share,
            }
        )
    return found


def training_steps(architecture: Architecture, evaluation: EvaluationSettings, device: torch.device) -> list[float]:
    """Seconds of single training steps of one model alone."""
    plan = Plan(architecture=architecture, evaluation=evaluation, seed=0, device=device)
    replicate = Replicate(plan, evaluation.training.learning_rates[0], 0)
    replicate.advance()
    return [clocked(replicate.advance) for _ in range(TRAIN_REPEATS)]


def lines(path: Path) -> Iterator[dict[str, Any]]:
    """The whole lines of a file of records; a last line that a kill cut short is passed over."""
    if not path.exists():
        return
    for line in path.read_text(encoding="utf-8").splitlines():
        try:
            yield json.loads(line)
        except ValueError:
            continue


def header(space: Space, evaluation: EvaluationSettings, device: torch.device) -> dict[str, Any]:
    """What holds for all records of a run."""
    return {
        "header": 1,
        "space": catalog.document(SPACE, Path()).data,
        "evaluation": evaluation.model_dump(mode="json"),
        "machine": json.loads(machine.describe(device)),
    }


def record(architecture: Architecture, scores: Sequence[Sequence[dict[str, float]]], facts: dict[str, Any]) -> str:
    """One architecture as a line; `scores` by rung, then by seed."""
    found = {"hash": content_hash(architecture), "architecture": canonical_json(architecture), "scores": scores}
    return json.dumps({**found, **facts})


def known(path: Path) -> set[str]:
    """Hashes of the architectures in a table or a file of records."""
    if path.suffix == ".parquet":
        return set(parquet.read(path).candidates)
    return {line["hash"] for line in lines(path) if "hash" in line}


def main() -> None:
    """Train wave after wave until the count or the time is reached."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--output", type=Path, required=True)
    parser.add_argument(
        "--known", type=Path, action="append", default=[], help="records or tables of earlier runs to pass over"
    )
    parser.add_argument("--count", type=int, default=500, help="architectures, known ones included")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--wave", type=int, default=100, help="architectures in one stack")
    parser.add_argument("--together", type=int, default=25, help="architectures whose measurements take turns")
    parser.add_argument("--seconds", type=float, default=float("inf"), help="time for everything")
    parser.add_argument("--eager", action="store_true", help="launch every operation instead of replaying steps")
    given = parser.parse_args()
    started = time.perf_counter()
    plain_pytorch()
    device = machine.choose("cuda")
    space = catalog.load(SPACE)
    evaluation = read(SETTINGS).validate(EvaluationSettings)
    done = {digest for path in (given.output, *given.known) for digest in known(path)}
    left = [a for a in ordered(space)[: given.count] if content_hash(a) not in done]
    with given.output.open("a", encoding="utf-8") as output:
        output.write("\n" + json.dumps(header(space, evaluation, device)) + "\n")
        size, pace = given.wave, 0.0
        while left:
            begun = time.perf_counter()
            if pace:  # the last wave is as large as the rest of the time allows
                size = min(size, int(SAFE * (given.seconds - (begun - started)) / pace))
            if size < SMALLEST:
                break
            wave = left[:size]
            try:
                written = one_wave(wave, given.seeds, given.together, evaluation, device, graphs=not given.eager)
            except torch.OutOfMemoryError:
                size //= 2
                sys.stderr.write(f"out of memory; waves of {size} follow\n")
                torch.cuda.empty_cache()
                continue
            output.writelines(written)
            output.flush()
            left = left[len(wave) :]
            pace = (time.perf_counter() - begun) / len(wave)
            sys.stderr.write(f"{len(wave)} architectures in {pace * len(wave):.1f} s, {len(left)} left\n")


def one_wave(
    wave: Sequence[Architecture],
    seeds: int,
    together: int,
    evaluation: EvaluationSettings,
    device: torch.device,
    *,
    graphs: bool,
) -> list[str]:
    """Train and measure architectures; their records, one line each."""
    stack, scores, spent = trained(wave, seeds, evaluation, device, graphs=graphs)
    models = [stack.model(number * seeds) for number in range(len(wave))]
    peak = torch.cuda.max_memory_reserved() / 1e9
    del stack
    torch.cuda.empty_cache()
    begun = time.perf_counter()
    facts: list[dict[str, Any]] = []
    for first in range(0, len(wave), together):
        part = models[first : first + together]
        try:
            facts += measured(part, evaluation, device)
        except RuntimeError as error:  # what was trained is not lost; the reader of the records leaves these out
            sys.stderr.write(f"{len(part)} architectures were not measured: {error}\n")
            facts += [{"decode_tokens_per_second": None}] * len(part)
    measuring = time.perf_counter() - begun
    sys.stderr.write(f"trained {spent:.1f} s with {peak:.0f} GB, measured {measuring:.1f} s\n")
    own = [[rung[number * seeds : (number + 1) * seeds] for rung in scores] for number in range(len(wave))]
    return [record(a, rungs, facts[number]) + "\n" for number, (a, rungs) in enumerate(zip(wave, own, strict=True))]


if __name__ == "__main__":
    main()
