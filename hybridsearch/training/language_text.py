"""A trained run as something that writes: load it, give it a prompt, read on."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import torch

from hybridsearch.errors import InvalidFile, InvalidSetting
from hybridsearch.models.build import build
from hybridsearch.models.generation import Sampling
from hybridsearch.models.generation import generate as generate_tokens
from hybridsearch.models.language_model import LanguageModel
from hybridsearch.seeds import derive
from hybridsearch.spec.architecture import Architecture
from hybridsearch.tasks.text import Tokenizer, tokenizer
from hybridsearch.training.language_files import LanguageSettings, RunFolder, Validation, choose_device

START = "\n"
"""Stands for an empty prompt: training windows start anywhere, so a line's end is the most neutral beginning."""


@dataclass(frozen=True, slots=True)
class Trained:
    """A model with its tokenizer."""

    model: LanguageModel
    tokenizer: Tokenizer
    architecture: Architecture
    settings: LanguageSettings
    step: int
    validations: tuple[Validation, ...]


def load(folder: Path, *, which: Literal["best", "last"] = "best", device: str = "auto") -> Trained:
    """The best or last checkpoint of a run, ready to generate.

    Raises:
        InvalidFile: there is no run or no checkpoint, or it is damaged.
    """
    place = RunFolder(folder)
    architecture, settings, vocabulary = place.read()
    found = place.load(which) or place.load("last")
    if found is None:
        raise InvalidFile(f"{folder}: no checkpoint yet; resume the run first")
    model = build(architecture, vocabulary)
    try:
        with torch.no_grad():
            for name, parameter in model.named_parameters():
                parameter.copy_(found.tensors[f"weight/{name}"])
    except (KeyError, RuntimeError):
        raise InvalidFile(f"{folder}: the {which} checkpoint does not fit its architecture; train again") from None
    model = model.to(choose_device(device)).eval()
    return Trained(model, tokenizer(place.tokenizer), architecture, settings, found.step, found.validations)


def stream(
    trained: Trained, prompt: str, *, tokens: int = 200, sampling: Sampling | None = None, seed: int = 0
) -> Iterator[str]:
    """Pieces of text after the prompt as they come; the same arguments give the same text on the same machine.

    Raises:
        InvalidSetting: fewer than one token is asked for.
    """
    if tokens < 1:
        raise InvalidSetting(f"{tokens} tokens were asked for; ask for at least 1")
    device = next(trained.model.parameters()).device
    generator = torch.Generator(device).manual_seed(derive(seed, "generation"))
    numbers = trained.tokenizer.encode(prompt or START).astype("int64")
    start = torch.from_numpy(numbers).to(device)[None]
    drawn = generate_tokens(trained.model, start, tokens, sampling or Sampling(), generator)
    yield from trained.tokenizer.decode(int(token) for token in drawn)


def generate(
    trained: Trained, prompt: str, *, tokens: int = 200, sampling: Sampling | None = None, seed: int = 0
) -> str:
    """All of `stream` at once."""
    return "".join(stream(trained, prompt, tokens=tokens, sampling=sampling, seed=seed))
