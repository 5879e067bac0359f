"""Measured throughput of a model: tokens/s of prefill and decode at every context and batch.

A repeat of prefill is one whole prompt, up to the choice of its first answer token. A repeat of decode is a row of
single tokens, each with the choice of the next, on a memory that holds the prompt; it is prefilled once and every
repeat works on a copy, so that all repeats start from the same context. On a GPU the row is replayed as one CUDA graph,
as servers do it: otherwise the launches of small models would be timed, not their work. Repeats of all shapes take
turns, so that a slow moment of the machine spreads over all of them; medians and quartiles are reported. The caller
sees to it that nothing else runs (`exclusive.measuring`).
"""

import copy
import math
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from itertools import chain
from typing import Literal

import torch
from torch import Tensor

from hybridsearch.models.language_model import LanguageModel
from hybridsearch.models.memory import MemoryGroup
from hybridsearch.settings import ThroughputSettings
from hybridsearch.training.graphs import captured
from hybridsearch.trial import Measurement

SECONDS_A_SHAPE = 0.5
"""A shape that is slower than this over all its repeats gets fewer of them, but at least `FEWEST`."""
FEWEST = 3
"""Repeats below which there are no quartiles to speak of."""

Tokens = Callable[[int, int], Tensor]
"""Sequences, length -> tokens [sequences, length] such as the model was trained on, on the model's device."""


@dataclass(frozen=True, slots=True)
class Throughput:
    """What was measured of one model."""

    measurements: tuple[Measurement, ...]
    """Prefill and decode of every shape, contexts rising, then batches."""
    cache_bytes: int
    """Decode memory of one sequence at the last context, as it lies in memory."""

    @property
    def metrics(self) -> dict[str, float]:
        """Every measurement by its key, both phases at the last context and batch, and `cache_bytes`."""
        by_key = {measurement.key: measurement.tokens_per_second for measurement in self.measurements}
        last = {f"{m.phase}_tokens_per_second": m.tokens_per_second for m in self.measurements}
        return {**last, **by_key, "cache_bytes": float(self.cache_bytes)}


@dataclass(slots=True)
class _Timed:
    """One phase of one shape, and its seconds so far."""

    phase: Literal["prefill", "decode"]
    context: int
    batch: int
    tokens: int
    """Tokens of one repeat, all sequences together."""
    prepare: Callable[[], Callable[[], object]]
    """Makes what one repeat runs; its own time does not count."""
    planned: int
    seconds: list[float] = field(default_factory=list)

    def measurement(self) -> Measurement:
        rates = sorted(self.tokens / seconds for seconds in self.seconds)
        low, middle, high = statistics.quantiles(rates, n=4, method="inclusive")
        return Measurement(
            phase=self.phase, context=self.context, batch=self.batch,
            tokens_per_second=middle, low=low, high=high, repeats=len(rates),
        )  # fmt: skip


def measure(
    model: LanguageModel,
    settings: ThroughputSettings,
    tokens: Tokens,
    device: torch.device,
    dtype: torch.dtype | None = None,
) -> Throughput:
    """Time a copy of `model` (its own caches stay as they are) at every shape of `settings`.

    Every shape is run once to warm up; the warm-up of prefill makes the memory that decode starts from. `dtype` is that
    of the copy's weights; none means the model's own.
    """
    return measure_together([model], settings, tokens, device, dtype)[0]


def measure_together(
    models: Sequence[LanguageModel],
    settings: ThroughputSettings,
    tokens: Tokens,
    device: torch.device,
    dtype: torch.dtype | None = None,
) -> list[Throughput]:
    """Several models as `measure` times one, their repeats taking turns: a slow moment of the machine hits them all."""
    copies = [copy.deepcopy(model).to(dtype).eval() for model in models]
    with torch.inference_mode():
        timed = [_shapes(model, settings, tokens, device) for model in copies]
        for _ in range(settings.repeats):
            for shape in chain.from_iterable(timed):
                if len(shape.seconds) < shape.planned:
                    shape.seconds.append(_clocked(shape.prepare(), device))
        held = [model.prefill(tokens(1, settings.contexts[-1]))[1].bytes() for model in copies]
    return [
        Throughput(tuple(shape.measurement() for shape in shapes), size)
        for shapes, size in zip(timed, held, strict=True)
    ]


def _shapes(model: LanguageModel, settings: ThroughputSettings, tokens: Tokens, device: torch.device) -> list[_Timed]:
    """Every shape of `settings`, contexts rising, then batches."""
    _warm_up(model, settings, tokens)
    timed: list[_Timed] = []
    for context in settings.contexts:
        for batch in settings.batches:
            timed += _shape(model, settings, tokens(batch, context + settings.decode_tokens + 1), device)
    return timed


def _warm_up(model: LanguageModel, settings: ThroughputSettings, tokens: Tokens) -> None:
    """Everything once at the smallest shape, so that the first big one is no longer the first of its kind."""
    prompt = tokens(settings.batches[0], settings.contexts[0] + 2)
    _, memory = _prefilled(model, prompt[:, :-2])
    _decoded(model, memory, prompt[:, -2:])


def _shape(model: LanguageModel, settings: ThroughputSettings, row: Tensor, device: torch.device) -> list[_Timed]:
    """Prefill and decode of one shape, warmed up and planned; `row` [batch, context + 1 + tokens to decode]."""
    batch, context = row.shape[0], row.shape[1] - settings.decode_tokens - 1
    prompt, first, rest = row[:, :context], row[:, context : context + 1], row[:, context + 1 :]
    held: list[MemoryGroup] = []
    prefill = _Timed(
        "prefill", context, batch, batch * context, lambda: lambda: _prefilled(model, prompt), settings.repeats
    )
    seconds = _clocked(lambda: held.append(_prefilled(model, prompt)[1]), device)
    prefill.planned = _planned(settings.repeats, seconds)
    if seconds > SECONDS_A_SHAPE:  # smaller shapes have warmed everything up, and what is left is far below the spread
        prefill.seconds.append(seconds)
    # The first token after the prompt may make a cache grow: it is decoded before the memory is copied.
    _decoded(model, held[0], first)

    def on_a_copy() -> Callable[[], object]:
        memory = held[0].copy()
        return lambda: _decoded(model, memory, rest)

    seconds = _clocked(on_a_copy(), device)
    memory = held[0].copy()
    replay = captured(lambda: _decoded(model, memory, rest), device, reads=memory)
    prepare = on_a_copy if replay is None else lambda: replay
    decode = _Timed("decode", context, batch, batch * rest.shape[1], prepare, settings.repeats)
    decode.planned = _planned(settings.repeats, seconds if replay is None else _clocked(replay, device))
    return [prefill, decode]


def _prefilled(model: LanguageModel, prompt: Tensor) -> tuple[Tensor, MemoryGroup]:
    hidden, memory = model.prefill(prompt)
    return model.logits(hidden[:, -1]).argmax(-1), memory


def _decoded(model: LanguageModel, memory: MemoryGroup, row: Tensor) -> Tensor:
    """Feed the row's tokens one by one, choosing a next token after each as a generating model would."""
    choice = row[:, 0]
    for token in row.unbind(1):
        hidden, memory = model.step(token, memory)
        choice = model.logits(hidden).argmax(-1)
    return choice


def _planned(repeats: int, seconds: float) -> int:
    return min(repeats, max(FEWEST, math.ceil(SECONDS_A_SHAPE / max(seconds, 1e-9))))


def _clocked(work: Callable[[], object], device: torch.device) -> float:
    _finish(device)
    started = time.perf_counter()
    work()
    _finish(device)
    return time.perf_counter() - started


def _finish(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
