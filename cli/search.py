"""`hybridsearch search`: start a search from a preset or a YAML file."""

import re
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from hybridsearch.cli import kinds, live, preview, running, session, show
from hybridsearch.errors import InvalidFile, InvalidSetting

if TYPE_CHECKING:
    from hybridsearch.settings import SearchSettings
    from hybridsearch.yaml_files import Document

EXAMPLES = show.examples(
    "hybridsearch search quickstart",
    "hybridsearch search layers --budget 20trials --workers 2",
    "hybridsearch search my.yaml --budget 2h --study first-try --seed 1",
    "hybridsearch search quickstart -o sampler=tpe -o evaluation.training.batch=32",
    "hybridsearch search my.yaml --dry-run",
    "hybridsearch search layers --address auto",
    "hybridsearch search quickstart --replay benchmarks/tables/recall.parquet --budget 200trials",
)


def search(
    context: typer.Context,
    config: Annotated[str, typer.Argument(metavar="CONFIG.yaml|PRESET", help="Settings of the search.")],
    option: Annotated[
        list[str] | None,
        typer.Option("--option", "-o", metavar="KEY=VALUE", help="Set a value of the settings, by its dotted key."),
    ] = None,
    budget: Annotated[
        str | None, typer.Option(metavar="20trials|30m|2h|20trials,30m", help="When to end; the first limit counts.")
    ] = None,
    sampler: Annotated[
        str | None,
        typer.Option(
            metavar="auto|random|evolution|prior|cluster|nsga2|tpe|qlognehvi", help="Who proposes architectures."
        ),
    ] = None,
    seed: Annotated[int | None, typer.Option(metavar="N", min=0, help="Seed of everything random.")] = None,
    workers: Annotated[
        int | None, typer.Option(metavar="N", min=1, help="Trials at once; default: as many as fit.")
    ] = None,
    study: Annotated[str | None, typer.Option(metavar="NAME", help="Name in the store; default: the file's.")] = None,
    address: Annotated[
        str | None, typer.Option(metavar="HOST:PORT|auto", help="A running Ray cluster; default: this machine.")
    ] = None,
    replay: Annotated[
        Path | None, typer.Option(metavar="TABLE", help="Look results up in a table in place of training, in seconds.")
    ] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Show what would be searched; train nothing.")] = False,
) -> None:
    """Search a space for the front of recall against throughput. Ctrl-C once: save and stop; twice: stop at once."""
    place = session.of(context)
    given = {
        "sampler": sampler,
        "seed": seed,
        "workers.count": workers,
        "study": study,
        "replay": replay and str(replay),
    }
    settings, space = read(config, option or [], budget, {k: v for k, v in given.items() if v is not None})
    if dry_run:
        preview.show_plan(*(_of_table(place, settings) if settings.replay else (settings, space)))
        return
    if settings.replay is not None:
        raise typer.Exit(_replayed(place, named(place, settings, config), space, address))
    settings = running.with_gpu(named(place, settings, config), address)
    raise typer.Exit(_run(place, settings, space, address))


def _run(place: session.Session, settings: "SearchSettings", space: "Document", address: str | None) -> int:
    from hybridsearch.control import launch

    places = place.places()
    plan = launch.plan(settings, space, places)
    name = str(settings.study)
    execute = running.executor(address, places.study(name) / "ray.log")
    machine = running.machine(settings, address)
    with running.interruptible(place, name), live.view(name, settings, quiet=place.quiet) as view:
        outcome = launch.start(plan, execute, view, machine=machine)
    return running.summary(place, outcome)


def _of_table(place: session.Session, settings: "SearchSettings") -> "tuple[SearchSettings, Document]":
    """The settings and the space that a replay will have."""
    from hybridsearch.control import replay
    from hybridsearch.control.places import Places
    from hybridsearch.yaml_files import Document

    nowhere = Places(root=place.folder, store=place.store_url, tracking=None)  # a dry run makes no folder
    plan = replay.plan(settings, replay.table(str(settings.replay)), nowhere)
    return plan.settings, Document.of(plan.source, f"space of {settings.replay}")


def _replayed(place: session.Session, settings: "SearchSettings", space: "Document", address: str | None) -> int:
    from hybridsearch.control import launch, replay

    if address is not None:
        raise InvalidSetting("--replay trains nothing, so it needs no --address; leave one of them out")
    plan = launch.plan(settings, space, running.on_paper(place).places())
    execute, clock = replay.executor(plan.settings)
    name = str(settings.study)
    if not place.quiet:
        show.note(f"space and evaluation are those of {settings.replay}; the search's own are not used")
    with running.interruptible(place, name), live.view(name, plan.settings, quiet=place.quiet) as view:
        outcome = launch.start(plan, execute, view, machine="", clock=clock)
    return running.summary(place, outcome)


def read(
    config: str, options: list[str], budget: str | None, given: dict[str, object]
) -> "tuple[SearchSettings, Document]":
    """The settings with the command line's changes, and their space as written.

    Raises:
        InvalidFile: the file or a change breaks the schema; the text names the line or the option.
        InvalidSetting: no such preset, or an option that is no `key=value`.
    """
    from hybridsearch.search_spaces import catalog, ready_made
    from hybridsearch.settings import SearchSettings

    document = changed(kinds.expect(ready_made.read(config), "search"), options, budget, given)
    settings = document.validate(SearchSettings)
    known = set(settings.metrics)
    if settings.replay is not None:  # levels and shapes are the table's
        known |= {metric for metric in settings.constraints if metric.partition("/")[0] in known}
    for metric in settings.constraints:
        if metric not in known:
            raise document.unknown(("constraints", metric), known)
    if settings.replay is not None:
        folder = Path() if ("replay",) in document.origins else Path(document.source).parent
        settings = settings.model_copy(update={"replay": str((folder / settings.replay).absolute())})
    if isinstance(settings.space, dict):
        return settings, document.section("space")
    # A path in the file is meant from the file's folder, one on the command line from here.
    folder = Path() if ("space",) in document.origins else Path(document.source).parent
    return settings, kinds.expect(catalog.document(settings.space, folder), "space")


def changed(document: "Document", options: list[str], budget: str | None, given: dict[str, object]) -> "Document":
    """The document with the command line's changes, each with the option that it came from.

    Raises:
        InvalidFile: a value is not YAML.
        InvalidSetting: an option is no `key=value`, or the budget is none.
    """
    from hybridsearch.control.budget import parse
    from hybridsearch.settings import override
    from hybridsearch.yaml_files import parse_value

    for option in options:
        key, equals, text = option.partition("=")
        if not equals or not re.fullmatch(r"[\w/]+(\.[\w/]+)*", key):
            raise InvalidSetting(f"option `-o {option}` is not understood; write `-o key=value`, e.g. `-o seed=1`")
        try:
            value = parse_value(text)
        except InvalidFile as error:
            raise InvalidFile(f"option `-o {option}`: {error}") from None
        data = override(document.data, key, value)
        document = document.changed(tuple(key.split(".")), data, f"option `-o {option}`")
    if budget is not None:
        limits = parse(budget).model_dump(exclude_none=True)
        document = document.changed(("budget",), {**document.data, "budget": limits}, f"option `--budget {budget}`")
    for key, value in given.items():
        data = override(document.data, key, value)
        document = document.changed(tuple(key.split(".")), data, f"option `--{key.partition('.')[0]} {value}`")
    return document


def named(place: session.Session, settings: "SearchSettings", config: str) -> "SearchSettings":
    """The settings with a study name that is free: a given one as it is, else one made from the file's name."""
    if settings.study is not None:
        return settings
    from hybridsearch.control.launch import free_name
    from hybridsearch.db.store import Store

    stem = re.sub(r"[^A-Za-z0-9_.-]+", "-", Path(config).stem).strip("-._")[:56] or "study"
    with Store.open(place.places().store) as store:
        return settings.model_copy(update={"study": free_name(store, stem)})
