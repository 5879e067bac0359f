"""Throughput of several architectures on this machine, measured together while nothing else trains or measures."""

from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor

from hybridsearch.models.build import build
from hybridsearch.seeds import derive
from hybridsearch.settings import ThroughputSettings
from hybridsearch.spec.architecture import Architecture
from hybridsearch.training import exclusive
from hybridsearch.training.meter import Throughput, measure_together
from hybridsearch.workers.device import choose

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}


def bench(
    architectures: Sequence[Architecture],
    settings: ThroughputSettings,
    *,
    vocabulary: int,
    device: str = "auto",
    precision: Literal["float32", "bfloat16"] = "float32",
    seed: int = 0,
) -> list[Throughput]:
    """Measure models with random weights, repeat by repeat in turns, in this machine's exclusive slot.

    Args:
        architectures: what to measure.
        settings: shapes and repeats.
        vocabulary: tokens; the head over them is part of what is timed.
        device: `auto`, `cpu` or `cuda`.
        precision: of weights and activations.
        seed: of weights and tokens.

    Raises:
        InvalidSetting: `cuda` where there is none.
    """
    place = choose(device)
    models = [
        build(
            architecture,
            vocabulary,
            generator=torch.Generator().manual_seed(derive(seed, "weights")),
            device=place,
            dtype=DTYPES[precision],
        )
        for architecture in architectures
    ]
    drawn = torch.Generator(place).manual_seed(derive(seed, "tokens"))

    def tokens(batch: int, length: int) -> Tensor:
        return torch.randint(vocabulary, (batch, length), generator=drawn, device=place)

    slot = exclusive.Slot()
    try:
        with exclusive.measuring(slot):
            return measure_together(models, settings, tokens, place)
    finally:
        slot.close()
