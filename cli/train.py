"""`hybridsearch train`: train an exported architecture on text, go on with a run, or let it write."""

import shlex
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from hybridsearch.cli import kinds, session, show
from hybridsearch.errors import InvalidSetting

if TYPE_CHECKING:
    from hybridsearch.spec.architecture import Architecture
    from hybridsearch.training.language import Result, Update
    from hybridsearch.training.language_files import LanguageSettings

EXAMPLES = show.examples(
    "hybridsearch train best.yaml --data book.txt",
    "hybridsearch train best.yaml --data books/*.txt --steps 5000 --context 512 --out my-model",
    "hybridsearch train best.yaml --resume --steps 10000",
    "hybridsearch train best.yaml --prompt 'Once upon a time' --tokens 300",
)


def train(
    context: typer.Context,
    architecture: Annotated[Path, typer.Argument(metavar="ARCH.yaml", help="As `hybridsearch export` writes it.")],
    more: Annotated[list[Path] | None, typer.Argument(metavar="FILES", help="More text files.")] = None,
    data: Annotated[
        list[Path] | None, typer.Option("--data", metavar="FILES...", help="UTF-8 text files to train on.")
    ] = None,
    out: Annotated[
        Path | None, typer.Option(metavar="FOLDER", help="The run's folder; default: in the root, by name.")
    ] = None,
    resume: Annotated[bool, typer.Option("--resume", help="Go on with the run in the folder.")] = False,
    prompt: Annotated[
        str | None, typer.Option(metavar="TEXT", help="Write a continuation of this, after training if any.")
    ] = None,
    steps: Annotated[int | None, typer.Option(metavar="N", help="Optimiser steps. [1000]", show_default=False)] = None,
    batch: Annotated[int | None, typer.Option(metavar="N", help="Sequences a step. [16]", show_default=False)] = None,
    length: Annotated[
        int | None, typer.Option("--context", metavar="N", help="Tokens of a sequence. [256]", show_default=False)
    ] = None,
    learning_rate: Annotated[float | None, typer.Option(metavar="X", help="Peak. [0.001]", show_default=False)] = None,
    precision: Annotated[
        str | None, typer.Option(metavar="auto|float32|bfloat16", help="Of matrix products. [auto]")
    ] = None,
    device: Annotated[str | None, typer.Option(metavar="auto|cpu|cuda", help="Where it trains. [auto]")] = None,
    seed: Annotated[int | None, typer.Option(metavar="N", min=0, help="Seed of weights and data. [0]")] = None,
    tokenizer: Annotated[Path | None, typer.Option(metavar="FILE", help="A tokenizer.json; default: bytes.")] = None,
    tokens: Annotated[int, typer.Option(metavar="N", min=1, help="Tokens to write after the prompt.")] = 200,
    temperature: Annotated[float, typer.Option(metavar="X", help="Of the writing; 0 takes the likeliest token.")] = 0.8,
) -> None:
    """Train an architecture on text files, and let it write. Ctrl-C saves; --resume goes on, on a CPU bit by bit."""
    from hybridsearch import yaml_files
    from hybridsearch.export import native

    described = native.of(kinds.expect(yaml_files.read(architecture), "architecture"))
    place = session.of(context)
    folder = out or place.folder / "trained" / architecture.stem
    files = [*(data or []), *(more or [])]
    if resume and not files:
        _require_run(folder)
    if files or resume:
        changes = {"steps": steps, "batch": batch, "context": length, "learning_rate": learning_rate,
                   "precision": precision, "device": device, "seed": seed}  # fmt: skip
        settings = settings_of(folder, {k: v for k, v in changes.items() if v is not None}, resume=resume)
        result = _train(described, files, folder, settings, tokenizer, resume=resume, quiet=place.quiet)
        if not result.finished:
            again = f"hybridsearch train {shlex.quote(str(architecture))} --resume{_place(out, place)}"
            show.note(f"stopped at step {result.step}; go on with:  {again}")
            raise typer.Exit(130)
    elif prompt is None:
        raise InvalidSetting("nothing to do; give text with --data, --resume to go on, or --prompt to let it write")
    if prompt is not None:
        _write(folder, prompt, tokens, temperature, seed or 0)


def _require_run(folder: Path) -> None:
    from hybridsearch.training.language_files import RunFolder

    if not RunFolder(folder).exists:
        raise InvalidSetting(f"{folder}: no training run here to go on with; begin one with --data, or correct --out")


def _place(out: Path | None, place: session.Session) -> str:
    return f" --out {shlex.quote(str(out))}" if out else place.options()


def settings_of(folder: Path, changes: dict[str, Any], *, resume: bool) -> "LanguageSettings":
    """The settings of a new run, or of the run in the folder, with what was given on the command line.

    Raises:
        InvalidSetting: a value is out of its range.
        InvalidFile: the run's own settings are damaged.
    """
    from dataclasses import replace

    from hybridsearch.training.language_files import LanguageSettings, RunFolder

    for name, known in (("precision", ("auto", "float32", "bfloat16")), ("device", ("auto", "cpu", "cuda"))):
        if changes.get(name, "auto") not in known:
            raise InvalidSetting(f"{name} `{changes[name]}` is not known; choose {', '.join(known)}")
    place = RunFolder(folder)
    if resume and place.exists:
        return replace(place.read()[1], **changes)
    return LanguageSettings(**changes)


def _train(
    described: "Architecture",
    files: list[Path],
    folder: Path,
    settings: "LanguageSettings",
    tokenizer: Path | None,
    *,
    resume: bool,
    quiet: bool,
) -> "Result":
    from hybridsearch.training.language import train as run

    def tell(update: "Update") -> None:
        if not quiet:
            show.note(progress(update))

    with _stop_on_interrupt() as stop:
        result = run(described, files, folder, settings, tokenizer=tokenizer, resume=resume, on_update=tell, stop=stop)
    if result.best is not None:
        said = f"validation loss {result.best.loss:.4f}, {result.best.bits_per_byte:.4f} bits per byte"
        show.line(f"{folder}: step {result.step}, best {said} (step {result.best.step})")
    return result


def progress(update: "Update") -> str:
    """One line of progress."""
    text = (
        f"step {update.step}/{update.steps}  loss {update.loss:.4f}  "
        f"lr {update.learning_rate:.2e}  {update.tokens_per_second:,.0f} tokens/s"
    )
    found = update.validation
    if found is None:
        return text
    return f"{text}  validation loss {found.loss:.4f}, {found.bits_per_byte:.4f} bits per byte"


def _write(folder: Path, prompt: str, tokens: int, temperature: float, seed: int) -> None:
    from hybridsearch.models.generation import Sampling
    from hybridsearch.training.language_text import load, stream

    model = load(folder)
    sampling = Sampling(temperature=temperature)
    show.piece(prompt)
    for piece in stream(model, prompt, tokens=tokens, sampling=sampling, seed=seed):
        show.piece(piece)
    show.line()


@contextmanager
def _stop_on_interrupt() -> Iterator[Callable[[], bool]]:
    """The first Ctrl-C (or SIGTERM) asks for a stop after the step, the second stops at once."""
    asked: list[int] = []

    def handle(number: int, frame: object) -> None:
        if asked:
            raise KeyboardInterrupt
        asked.append(number)
        show.note("saving after this step; Ctrl-C again stops at once")

    before = {number: signal.signal(number, handle) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield lambda: bool(asked)
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
