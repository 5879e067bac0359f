"""`hybridsearch bench`: throughput of architectures on this machine, measured side by side."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from hybridsearch.cli import kinds, session, show, spaces
from hybridsearch.cli.show import Column, Format, FormatOption
from hybridsearch.errors import InvalidSetting

if TYPE_CHECKING:
    from hybridsearch.settings import ThroughputSettings
    from hybridsearch.spec.architecture import Architecture
    from hybridsearch.training.meter import Throughput

EXAMPLES = show.examples(
    "hybridsearch bench full linear three_to_one --space layers",
    "hybridsearch bench best.yaml full --contexts 1024,16384 --batches 1,8",
    "hybridsearch bench quickstart:3f9a01bc quickstart:#7 --format json",
)
COLUMNS = (
    Column("label", "architecture"),
    Column("phase", "phase"),
    Column("context", "context", show.number, right=True),
    Column("batch", "batch", show.number, right=True),
    Column("tokens_per_second", "tokens/s", show.number, right=True),
    Column("low", "quartile", show.number, right=True),
    Column("high", "quartile", show.number, right=True),
    Column("repeats", "repeats", right=True),
    Column("cache_bytes", "cache bytes", show.number, right=True),
)


def bench(
    context: typer.Context,
    targets: Annotated[
        list[str],
        typer.Argument(metavar="ARCH.yaml|STUDY:HASH|CONTROL...", help="What to measure; several take turns."),
    ],
    space: Annotated[
        str,
        typer.Option(metavar="NAME|FILE.yaml", help="Space whose controls full, linear and three_to_one are meant."),
    ] = "tiny",
    contexts: Annotated[str, typer.Option(metavar="N,N", help="Tokens in memory, rising.")] = "512,4096",
    batches: Annotated[str, typer.Option(metavar="N,N", help="Sequences at once, rising.")] = "1,8",
    decode: Annotated[int, typer.Option(metavar="N", min=1, help="Tokens decoded in one repeat.")] = 16,
    repeats: Annotated[int, typer.Option(metavar="N", min=3, help="Timed repeats.")] = 7,
    vocabulary: Annotated[int, typer.Option(metavar="N", min=2, help="Tokens of the vocabulary.")] = 8192,
    precision: Annotated[str, typer.Option(metavar="float32|bfloat16", help="Of weights and products.")] = "float32",
    device: Annotated[str, typer.Option(metavar="auto|cpu|cuda", help="Where it runs.")] = "auto",
    form: FormatOption = Format.TABLE,
) -> None:
    """Measure prefill and decode throughput: medians and quartiles, alone on the machine, repeats taking turns."""
    from hybridsearch.workers import device as machine
    from hybridsearch.workers.bench import bench as measure

    check(precision, device)
    settings = shapes(contexts, batches, decode, repeats)
    found = {target: architecture(session.of(context), target, space) for target in targets}
    if not session.of(context).quiet:
        show.note(f"measuring {', '.join(found)} on {show.machine(machine.describe(machine.choose(device)))}")
    results = measure(
        list(found.values()),
        settings,
        vocabulary=vocabulary,
        device=device,
        precision="bfloat16" if precision == "bfloat16" else "float32",
    )
    rows = [row for target, result in zip(found, results, strict=True) for row in _rows(target, found[target], result)]
    show.listing(sorted(rows, key=lambda row: (row["phase"], row["context"], row["batch"])), COLUMNS, form)


def check(precision: str, device: str) -> None:
    """Refuse words that are not known.

    Raises:
        InvalidSetting: one of them is not.
    """
    for name, value, known in (
        ("precision", precision, ("float32", "bfloat16")),
        ("device", device, ("auto", "cpu", "cuda")),
    ):
        if value not in known:
            raise InvalidSetting(f"{name} `{value}` is not known; choose {', '.join(known)}")


def architecture(place: session.Session, target: str, space: str) -> "Architecture":
    """What a word of the command line means: a file, a trial of a study, or a control of a space.

    Raises:
        HybridSearchError: nothing of that name, or it cannot be read.
    """
    from hybridsearch import yaml_files
    from hybridsearch.export import native, picks
    from hybridsearch.search_spaces.controls import controls
    from hybridsearch.spec.canonical import parse

    if Path(target).suffix in (".yaml", ".yml") or Path(target).is_file():
        return native.of(kinds.expect(yaml_files.read(Path(target)), "architecture"))
    study, colon, choice = target.partition(":")
    if colon:
        from hybridsearch.cli.pareto import read

        settings, stands = read(place, study)
        return parse(picks.pick(stands.points, choice, settings.objective_list).canonical)
    known = controls(spaces.load(space))
    if target not in known:
        raise InvalidSetting(
            f"`{target}` is not a .yaml file, not STUDY:HASH, and not a control of space {space} ({', '.join(known)})"
        )
    return known[target]


def shapes(contexts: str, batches: str, decode: int, repeats: int) -> "ThroughputSettings":
    """The shapes to measure at, from the command line's words."""
    from hybridsearch.settings import ThroughputSettings

    return ThroughputSettings.model_construct(
        contexts=_numbers("contexts", contexts),
        batches=_numbers("batches", batches),
        decode_tokens=decode,
        repeats=repeats,
    )


def _numbers(name: str, text: str) -> tuple[int, ...]:
    words = text.split(",")
    if not all(word.strip().isdecimal() and int(word) > 0 for word in words):
        raise InvalidSetting(f"option `--{name} {text}` is not understood; write whole numbers, e.g. `512,4096`")
    return tuple(sorted({int(word) for word in words}))


def _rows(target: str, found: "Architecture", result: "Throughput") -> list[dict[str, Any]]:
    from hybridsearch.spec.canonical import content_hash, readable_name

    last = max(m.context for m in result.measurements)
    return [
        {
            "label": target,
            "name": readable_name(found),
            "hash": content_hash(found),
            "phase": m.phase,
            "context": m.context,
            "batch": m.batch,
            "tokens_per_second": m.tokens_per_second,
            "low": m.low,
            "high": m.high,
            "repeats": m.repeats,
            "cache_bytes": result.cache_bytes if m.phase == "decode" and m.context == last else None,
        }
        for m in result.measurements
    ]
