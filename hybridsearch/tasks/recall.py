"""Multi-query associative recall (MQAR) as published with Zoology (Arora et al., 2312.04927).

A sequence is `key value key value ... | queries`: N pairs first, then every key once more at a random place, and the
model has to name the value that followed it. Keys come from 1 .. V/2 - 1 and values from V/2 .. V - 1, both without
replacement within a sequence. The places of the queries are even slots after the pairs, drawn without replacement
with probability proportional to x^(a-1), so that most queries come soon and some very late. All other places hold
random tokens of the whole vocabulary (or zeros). Nothing here knows a model.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from hybridsearch.errors import InvalidSetting
from hybridsearch.settings import RecallLevel, TaskSettings


@dataclass(frozen=True, slots=True)
class Batch:
    """Sequences with their questions. B sequences of T tokens with N questions each, all int64."""

    tokens: Tensor
    """[B, T]"""
    positions: Tensor
    """[B, N]: where the queried keys stand; the answer is what the model predicts to come next."""
    answers: Tensor
    """[B, N]: the value that followed the key in the pairs."""


def batch(level: RecallLevel, task: TaskSettings, count: int, generator: torch.Generator) -> Batch:
    """`count` fresh sequences of one level, made on the generator's device without waiting for it.

    Raises:
        InvalidSetting: the vocabulary holds too few keys for the level's pairs.
    """
    half = task.vocabulary // 2
    if half - 1 < level.pairs:
        raise InvalidSetting(
            f"{level.pairs} pairs need a vocabulary of at least {2 * (level.pairs + 1)}, found {task.vocabulary}"
        )
    keys = 1 + _distinct(count, half - 1, level.pairs, generator)
    answers = half + _distinct(count, task.vocabulary - half, level.pairs, generator)
    positions = 2 * (level.pairs + gaps(level, task.power, count, generator))
    tokens = _filler(level, task, count, generator)
    tokens[:, 0 : 2 * level.pairs : 2] = keys
    tokens[:, 1 : 2 * level.pairs : 2] = answers
    tokens.scatter_(1, positions, keys)
    return Batch(tokens, positions, answers)


def gaps(level: RecallLevel, power: float, count: int, generator: torch.Generator) -> Tensor:
    """[count, pairs]: the even slot of each pair's query, counted from the end of the pairs.

    Successive draws without replacement with p(x) ~ (x + 1)^(power - 1), as an exponential race: the slot whose clock
    of rate p rings first is drawn first (Efraimidis and Spirakis, 2006).
    """
    slots = (level.length - 2 * level.pairs) // 2
    device = generator.device
    rates = torch.arange(1, slots + 1, dtype=torch.float32, device=device) ** (power - 1.0)
    clocks = torch.empty(count, slots, device=device).exponential_(generator=generator) / rates
    return clocks.topk(level.pairs, dim=1, largest=False, sorted=True).indices


def tokens(task: TaskSettings, count: int, length: int, generator: torch.Generator) -> Tensor:
    """[count, length] tokens for timing: sequences of the hardest test level, one after another, cut to length.

    Routing depends on the data, so throughput has to be measured on tokens such as the model was trained on.
    """
    level = task.test[-1]
    pieces = -(-length // level.length)
    made = batch(level, task, count * pieces, generator).tokens
    return made.view(count, pieces * level.length)[:, :length].contiguous()


def _distinct(count: int, choices: int, size: int, generator: torch.Generator) -> Tensor:
    """[count, size] of 0 .. choices - 1, every row without repeats and in random order."""
    draws = torch.rand(count, choices, generator=generator, device=generator.device)
    return draws.topk(size, dim=1, sorted=True).indices


def _filler(level: RecallLevel, task: TaskSettings, count: int, generator: torch.Generator) -> Tensor:
    shape = (count, level.length)
    if not task.random_non_queries:
        return torch.zeros(shape, dtype=torch.int64, device=generator.device)
    return torch.randint(task.vocabulary, shape, generator=generator, device=generator.device)
