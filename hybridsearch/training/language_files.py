"""The folder of a training run on text: what is trained and how, packed text, the last and the best checkpoint.

    run.json            architecture, settings, vocabulary
    tokenizer.json      copied, if the run has one
    text/               packed tokens, so that the run goes on although the user's files have moved
    last.safetensors    weights and optimiser state; step and history as JSON in its header
    best.safetensors    weights of the best validation so far, in the same form

A checkpoint is one file that is renamed into place: after a crash there is the old or the new one, whole.
"""

import json
import os
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Literal

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from hybridsearch.errors import InvalidFile, InvalidSetting, StoreUnavailable
from hybridsearch.spec import canonical
from hybridsearch.spec.architecture import Architecture

FORMAT = 1


@dataclass(frozen=True, slots=True, kw_only=True)
class LanguageSettings:
    """How an architecture is trained on text.

    Raises:
        InvalidSetting: a value is out of its range.
    """

    steps: int = 1000
    """Optimiser steps; the learning rate falls to 0 at the last."""
    batch: int = 16
    """Sequences a step."""
    context: int = 256
    """Tokens of a sequence."""
    learning_rate: float = 1e-3
    """Peak."""
    warmup: float = 0.05
    """Share of the steps over which the learning rate rises."""
    weight_decay: float = 0.1
    clip: float = 1.0
    """Largest gradient norm."""
    precision: Literal["auto", "float32", "bfloat16"] = "auto"
    """Of matrix products; auto is bfloat16 on a GPU."""
    device: Literal["auto", "cpu", "cuda"] = "auto"
    validation_share: float = 0.1
    """Last part of every file."""
    validation_tokens: int = 65_536
    """Most predictions that a validation scores."""
    validate_every: int = 100
    """Steps between validations; the last step always validates."""
    save_seconds: float = 60.0
    """Longest time between checkpoints; validations and the end save too."""
    seed: int = 0

    def __post_init__(self) -> None:
        for name in ("steps", "batch", "context", "validation_tokens", "validate_every"):
            if getattr(self, name) < 1:
                raise InvalidSetting(f"{name} {getattr(self, name)} is below 1")
        for name in ("learning_rate", "clip"):
            if not 0.0 < getattr(self, name) < float("inf"):
                raise InvalidSetting(f"{name} {getattr(self, name):g} is not above 0")
        if not 0.0 <= self.warmup < 1.0:
            raise InvalidSetting(f"warmup {self.warmup:g} is not from 0 to below 1")
        if self.weight_decay < 0.0 or self.seed < 0:
            raise InvalidSetting(f"weight_decay {self.weight_decay:g} and seed {self.seed} may not be negative")


@dataclass(frozen=True, slots=True, kw_only=True)
class Validation:
    """The loss on held-out text after `step` steps."""

    step: int
    loss: float
    """Nats a token."""
    bits_per_byte: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Checkpoint:
    """A run at one moment."""

    step: int
    tensors: Mapping[str, Tensor]
    """`weight/<parameter>`, and in the last checkpoint the optimiser's `<kind>/<parameter>`."""
    validations: tuple[Validation, ...]

    @property
    def best(self) -> Validation | None:
        """The validation with the lowest loss, the earliest of equals."""
        return min(self.validations, key=lambda v: (v.loss, v.step), default=None)


class RunFolder:
    """Reads and writes the folder."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.text = path / "text"
        self._run = path / "run.json"

    @property
    def exists(self) -> bool:
        """Whether a run was begun here."""
        return self._run.is_file()

    @property
    def tokenizer(self) -> Path | None:
        """The run's tokenizer file; none means bytes."""
        place = self.path / "tokenizer.json"
        return place if place.is_file() else None

    def begin(
        self, architecture: Architecture, settings: LanguageSettings, vocabulary: int, tokenizer: Path | None
    ) -> None:
        """Write what is trained and how (again, for a run that goes on); `run.json` comes last and makes it a run.

        Raises:
            StoreUnavailable: the folder cannot be written.
        """
        facts = {
            "format": FORMAT,
            "vocabulary": vocabulary,
            "settings": asdict(settings),
            "architecture": json.loads(canonical.canonical_json(architecture)),
        }
        if tokenizer is not None:
            self._write(self.path / "tokenizer.json", tokenizer.read_bytes())
        self._write(self._run, json.dumps(facts, indent=1).encode())

    def read(self) -> tuple[Architecture, LanguageSettings, int]:
        """Architecture, settings and vocabulary of the run.

        Raises:
            InvalidFile: there is no run here, or `run.json` is damaged.
        """
        try:
            facts = json.loads(self._run.read_text(encoding="utf-8"))
            settings = LanguageSettings(**facts["settings"])
            return canonical.parse(json.dumps(facts["architecture"])), settings, int(facts["vocabulary"])
        except FileNotFoundError:
            raise InvalidFile(f"{self.path}: no training run here; `hybridsearch train` begins one") from None
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise InvalidFile(f"{self._run}: damaged ({type(error).__name__}); begin a new run") from None

    def save(self, name: Literal["last", "best"], checkpoint: Checkpoint) -> None:
        """Replace a checkpoint.

        Raises:
            StoreUnavailable: the disk is full or read-only; the old checkpoint stays whole.
        """
        tensors = {key: tensor.detach().cpu().contiguous() for key, tensor in checkpoint.tensors.items()}
        facts = {"step": checkpoint.step, "validations": [asdict(v) for v in checkpoint.validations]}
        self._write(self.path / f"{name}.safetensors", save(tensors, {"run": json.dumps(facts)}))

    def load(self, name: Literal["last", "best"]) -> Checkpoint | None:
        """A checkpoint on the CPU, or none if there is none yet.

        Raises:
            InvalidFile: the file is damaged.
        """
        place = self.path / f"{name}.safetensors"
        if not place.is_file():
            return None
        try:
            with safe_open(place, framework="pt", device="cpu") as file:
                facts: dict[str, Any] = json.loads((file.metadata() or {})["run"])
                tensors = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118 - no mapping
            validations = tuple(Validation(**v) for v in facts["validations"])
            return Checkpoint(step=int(facts["step"]), tensors=tensors, validations=validations)
        except (OSError, SafetensorError, ValueError, KeyError, TypeError) as error:
            raise InvalidFile(f"{place}: damaged ({type(error).__name__}); delete it to go on without it") from None

    def _write(self, place: Path, content: bytes) -> None:
        beside = place.with_name(f".{place.name}.{os.getpid()}")
        try:
            place.parent.mkdir(parents=True, exist_ok=True)
            with beside.open("wb") as file:
                file.write(content)
                file.flush()
                os.fsync(file.fileno())
            beside.replace(place)
        except OSError as error:
            with suppress(OSError):
                beside.unlink()
            raise StoreUnavailable(f"{place} cannot be written: {error.strerror}; free or choose a folder") from None


def check_continuation(old: LanguageSettings, new: LanguageSettings) -> None:
    """A run may go on with other steps, on another device and with another rhythm of saving; nothing else changes.

    Raises:
        InvalidSetting: something else differs.
    """
    free = ("steps", "device", "save_seconds", "validate_every")
    kept = replace(old, **{name: getattr(new, name) for name in free})
    changed = [name for name, value in asdict(kept).items() if value != getattr(new, name)]
    if changed:
        name = changed[0]
        raise InvalidSetting(
            f"{name} {getattr(new, name)} differs from this run's {getattr(old, name)}; leave it out to go on, "
            "or begin a new run"
        )


def choose_device(name: str) -> torch.device:
    """The device called `auto` (a GPU if there is one), `cpu` or `cuda`.

    Raises:
        InvalidSetting: `cuda` where PyTorch sees no GPU.
    """
    if name == "cuda" and not torch.cuda.is_available():
        raise InvalidSetting("device cuda, but PyTorch sees no GPU here; use cpu, or install a CUDA build")
    return torch.device("cuda" if name != "cpu" and torch.cuda.is_available() else "cpu")
