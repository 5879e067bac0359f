"""Training an architecture on the user's text. Progress goes to a callback; nothing here prints.

The data of a step depend on the seed and the step alone, and the checkpoint holds the whole optimiser, so a run that
was interrupted goes on bit by bit as if it had not been (on a CPU; GPU kernels do not promise their order of addition).
"""

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from hybridsearch.errors import FailureReason, InvalidSetting, TrialFailure
from hybridsearch.kernels import dispatch
from hybridsearch.models.build import build
from hybridsearch.models.language_model import LanguageModel
from hybridsearch.seeds import derive
from hybridsearch.spec import canonical
from hybridsearch.spec.architecture import Architecture
from hybridsearch.tasks import text
from hybridsearch.training.language_files import (
    Checkpoint,
    LanguageSettings,
    RunFolder,
    Validation,
    check_continuation,
    choose_device,
)
from hybridsearch.training.optimizer import adamw, factor, set_learning_rate

STEPS_UNCHECKED = 10
"""Steps between two updates, each of which waits for the device."""
LOGITS_AT_ONCE = 2**26
"""Elements of the logits held at once, 0.25 GB in float32: beyond it they are computed again for the gradient."""
STATE_KINDS = ("step", "exp_avg", "exp_avg_sq")


@dataclass(frozen=True, slots=True, kw_only=True)
class Update:
    """How far a run is."""

    step: int
    steps: int
    loss: float
    """Training loss of this step, nats a token."""
    learning_rate: float
    tokens_per_second: float
    """Since the last update, validations and saving left out."""
    validation: Validation | None = None
    """If this step was validated."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Result:
    """How a run ended, for now."""

    folder: Path
    step: int
    finished: bool
    """False if it was stopped before its last step; it can be resumed."""
    last: Validation | None
    best: Validation | None


def train(
    architecture: Architecture,
    data: Sequence[Path],
    folder: Path,
    settings: LanguageSettings,
    *,
    tokenizer: Path | None = None,
    resume: bool = False,
    on_update: Callable[[Update], None] = lambda update: None,
    stop: Callable[[], bool] = lambda: False,
) -> Result:
    """Train on UTF-8 text files, or go on with the run in `folder`.

    Args:
        architecture: what to train; a resumed run must be of the same.
        data: text files; a resumed run uses its own packed copy and ignores them.
        folder: becomes the run's folder.
        settings: a resumed run may change `steps`, `device`, `save_seconds` and `validate_every`.
        tokenizer: a `tokenizer.json`; none trains on bytes.
        resume: go on from the last checkpoint; a folder without a run begins one.
        on_update: told every ten steps and at every validation.
        stop: asked before every step; when true, the run is saved and returns (Ctrl-C in the middle of a step is not).

    Raises:
        InvalidFile: text, tokenizer or the run's files cannot be read.
        InvalidSetting: the folder holds a run and `resume` is false, or the settings do not fit it or the text.
        StoreUnavailable: the folder cannot be written.
        TrialFailure: memory ran out, or the loss is not a number.
    """
    place = RunFolder(folder)
    if place.exists and not resume:
        raise InvalidSetting(f"{folder} holds a training run already; resume it, or choose another folder")
    corpus = _prepare(place, architecture, data, settings, tokenizer)
    text.check_length(corpus, settings.context)
    run = _Run(place, architecture, settings, corpus)
    try:
        return run.go(on_update, stop)
    except torch.OutOfMemoryError:
        remedy = f"use a batch below {settings.batch} or a context below {settings.context}"
        raise TrialFailure(FailureReason.OUT_OF_MEMORY, f"out of memory at step {run.step + 1}; {remedy}") from None


def loss(model: LanguageModel, windows: Tensor) -> Tensor:
    """Mean cross entropy of the next token, nats; `windows` [B, T + 1] hold inputs and targets."""
    hidden = model(windows[:, :-1]).flatten(0, 1)
    targets = windows[:, 1:].flatten()
    pieces = -(-targets.numel() * model.vocabulary // LOGITS_AT_ONCE)
    if pieces == 1:
        return _summed(model, hidden, targets) / targets.numel()
    sums = [
        checkpoint(_summed, model, part, wanted, use_reentrant=False)
        for part, wanted in zip(hidden.chunk(pieces), targets.chunk(pieces), strict=True)
    ]
    total: Tensor = torch.stack(sums).sum() / targets.numel()
    return total


@torch.no_grad()
def validate(model: LanguageModel, corpus: text.Corpus, settings: LanguageSettings, step: int) -> Validation:
    """The loss over the first `validation_tokens` of the validation text; waits for the device once."""
    device = next(model.parameters()).device
    model.eval()
    total = torch.zeros((), dtype=torch.float64, device=device)
    count = 0
    for windows in text.windows(corpus.validation, settings.batch, settings.context, settings.validation_tokens):
        predictions = windows[:, 1:].numel()
        with _autocast(settings, device):
            total += loss(model, windows.to(device)) * predictions
        count += predictions
    model.train()
    nats = float(total) / count
    return Validation(step=step, loss=nats, bits_per_byte=nats / math.log(2) / corpus.bytes_per_token)


class _Run:
    """One model on its way to the last step."""

    def __init__(
        self, place: RunFolder, architecture: Architecture, settings: LanguageSettings, corpus: text.Corpus
    ) -> None:
        self._place, self._settings, self._corpus = place, settings, corpus
        self._device = choose_device(settings.device)
        weights = torch.Generator().manual_seed(derive(settings.seed, "weights"))
        self._model = build(architecture, corpus.facts.vocabulary, generator=weights, device=self._device)
        self._optimizer = adamw(self._model, learning_rate=settings.learning_rate, weight_decay=settings.weight_decay)
        self.step = 0
        self._validations: tuple[Validation, ...] = ()
        self._saved_at = time.monotonic()
        if (last := place.load("last")) is not None:
            self._restore(last)

    def go(self, on_update: Callable[[Update], None], stop: Callable[[], bool]) -> Result:
        """Train to the last step or until `stop`."""
        last = self._settings.steps
        mark, done = time.monotonic(), self.step
        while self.step < last and not stop():
            value = self._advance()
            due = self.step % self._settings.validate_every == 0 or self.step == last
            if due or self.step % STEPS_UNCHECKED == 0:
                update = self._update(value, mark, done)
                on_update(replace(update, validation=self._validate()) if due else update)
                mark, done = time.monotonic(), self.step
            if time.monotonic() - self._saved_at > self._settings.save_seconds:
                self.save()
        self.save()
        best = self._snapshot().best
        newest = self._validations[-1] if self._validations else None
        return Result(folder=self._place.path, step=self.step, finished=self.step >= last, last=newest, best=best)

    def save(self) -> None:
        """Replace the last checkpoint."""
        self._place.save("last", self._snapshot())
        self._saved_at = time.monotonic()

    def _advance(self) -> Tensor:
        settings = self._settings
        set_learning_rate(self._optimizer, self._learning_rate())
        generator = torch.Generator().manual_seed(derive(settings.seed, "text", self.step))
        windows = text.batch(self._corpus.training, settings.batch, settings.context, generator)
        self._optimizer.zero_grad(set_to_none=True)
        with _autocast(settings, self._device):
            value = loss(self._model, windows.to(self._device, non_blocking=True))
        # In this thread: torch's own for a GPU takes longer over it (gated delta rule, 32 x 512: 0.74 ms, not 0.48).
        with torch.autograd.set_multithreading_enabled(False):
            value.backward()  # type: ignore[no-untyped-call]
        torch.nn.utils.clip_grad_norm_(self._model.parameters(), settings.clip)
        self._optimizer.step()
        self.step += 1
        return value.detach()

    def _learning_rate(self) -> float:
        return self._settings.learning_rate * factor(self.step, self._settings.steps, self._settings.warmup)

    def _update(self, value: Tensor, started: float, done: int) -> Update:
        number = float(value)  # waits for the device, so that the time is read after the work
        settings = self._settings
        if not math.isfinite(number):
            remedy = f"use a learning rate below {settings.learning_rate:g}"
            raise TrialFailure(FailureReason.NOT_A_NUMBER, f"the loss is {number} at step {self.step}; {remedy}")
        return Update(
            step=self.step,
            steps=settings.steps,
            loss=number,
            learning_rate=self._optimizer.param_groups[0]["lr"],
            tokens_per_second=(self.step - done) * settings.batch * settings.context / (time.monotonic() - started),
        )

    def _validate(self) -> Validation:
        """Validate and save, as the best too if it is."""
        found = validate(self._model, self._corpus, self._settings, self.step)
        self._validations += (found,)
        self.save()
        snapshot = self._snapshot()
        if snapshot.best == found:
            weights = {name: tensor for name, tensor in snapshot.tensors.items() if name.startswith("weight/")}
            self._place.save("best", replace(snapshot, tensors=weights))
        return found

    def _snapshot(self) -> Checkpoint:
        tensors = {}
        for name, parameter in self._model.named_parameters():
            tensors[f"weight/{name}"] = parameter.detach()
            for kind, value in self._optimizer.state[parameter].items():
                tensors[f"{kind}/{name}"] = value
        return Checkpoint(step=self.step, tensors=tensors, validations=self._validations)

    @torch.no_grad()
    def _restore(self, last: Checkpoint) -> None:
        for name, parameter in self._model.named_parameters():
            parameter.copy_(last.tensors[f"weight/{name}"])
            if last.step > 0:
                state = {kind: last.tensors[f"{kind}/{name}"].to(self._device) for kind in STATE_KINDS}
                self._optimizer.state[parameter] = state
        self.step, self._validations = last.step, last.validations


def _prepare(
    place: RunFolder,
    architecture: Architecture,
    data: Sequence[Path],
    settings: LanguageSettings,
    tokenizer: Path | None,
) -> text.Corpus:
    """Begin the folder, or check that it is of the same run."""
    if not place.exists:
        choose_device(settings.device)
        corpus = text.pack(data, place.text, text.tokenizer(tokenizer), validation_share=settings.validation_share)
        text.check_length(corpus, settings.context)
        place.begin(architecture, settings, corpus.facts.vocabulary, tokenizer)
        return corpus
    known, old, vocabulary = place.read()
    if canonical.content_hash(known) != canonical.content_hash(architecture):
        raise InvalidSetting(
            f"{place.path} trains {canonical.readable_name(known)}, not {canonical.readable_name(architecture)}; "
            "choose another folder"
        )
    check_continuation(old, settings)
    place.begin(architecture, settings, vocabulary, None)
    return text.open_packed(place.text)


def _summed(model: LanguageModel, hidden: Tensor, targets: Tensor) -> Tensor:
    return dispatch.cross_entropy(hidden, model.vocabulary_matrix, targets, reduction="sum")


def _autocast(settings: LanguageSettings, device: torch.device) -> torch.autocast:
    lower = settings.precision == "bfloat16" or (settings.precision == "auto" and device.type == "cuda")
    return torch.autocast(device.type, dtype=torch.bfloat16, enabled=lower)
