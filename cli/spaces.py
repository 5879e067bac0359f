"""`hybridsearch spaces`: the search spaces that come with the program, and the user's own."""

import json
from typing import TYPE_CHECKING, Annotated

import typer

from hybridsearch.cli import kinds, preview, show
from hybridsearch.cli.show import Column, Format, FormatOption
from hybridsearch.errors import InvalidSetting

if TYPE_CHECKING:
    from hybridsearch.search_spaces.space import Space

app = typer.Typer(
    help="Search spaces: list the presets, show or check one, draw architectures from it.",
    rich_markup_mode=None,
    no_args_is_help=True,
    epilog=show.examples("hybridsearch spaces list", "hybridsearch spaces show tiny"),
)
SpaceArgument = Annotated[str, typer.Argument(metavar="NAME|FILE.yaml", help="A preset, or a file.")]


@app.command(
    "list",
    short_help="List the spaces, and the searches over them.",
    epilog=show.examples("hybridsearch spaces list", "hybridsearch spaces list --format json"),
)
def list_spaces(form: FormatOption = Format.TABLE) -> None:
    """List the spaces, and the ready-made searches over them."""
    from hybridsearch.search_spaces import catalog, ready_made

    over: dict[str, list[str]] = {}
    for name in ready_made.searches():
        over.setdefault(str(ready_made.read(name).data["space"]), []).append(name)
    rows = [
        {"space": name, "searches": ", ".join(over.get(name, [])), "description": description}
        for name, description in catalog.presets().items()
    ]
    columns = [Column("space", "space"), Column("searches", "search"), Column("description", "description")]
    show.listing(rows, columns, form)


@app.command(
    "show",
    short_help="Show what a space holds.",
    epilog=show.examples("hybridsearch spaces show layers", "hybridsearch spaces show my-space.yaml"),
)
def show_space(space: SpaceArgument, form: FormatOption = Format.TABLE) -> None:
    """Show what a space holds: its size, mixers, rules, constraints and controls."""
    from hybridsearch.search_spaces.describe import describe

    rows = describe(load(space))
    if form is Format.TABLE:
        show.pairs(rows)
    elif form is Format.JSON:
        show.as_json(dict(rows))
    else:
        show.listing([{"property": name, "value": value} for name, value in rows], [], form)


@app.command("check", short_help="Check a space.", epilog=show.examples("hybridsearch spaces check my-space.yaml"))
def check(space: SpaceArgument) -> None:
    """Check a space: its grammar, and that something in it meets its constraints (else exit code 3)."""
    from hybridsearch.search_spaces import size
    from hybridsearch.search_spaces.controls import controls

    loaded = load(space)
    preview.samples(loaded, 0, 1)
    compared = controls(loaded)
    found = size.count(loaded)
    bound = "" if found.exact else "at most "
    show.line(f"{space}: good, {bound}{found.architectures:,} architectures, controls {', '.join(compared)}")


@app.command(
    "sample",
    short_help="Draw architectures of a space at random.",
    epilog=show.examples("hybridsearch spaces sample tiny", "hybridsearch spaces sample full --count 100 -f json"),
)
def sample(
    space: SpaceArgument,
    count: Annotated[int, typer.Option(metavar="N", min=1, help="How many.")] = 5,
    seed: Annotated[int, typer.Option(metavar="N", min=0, help="Equal seeds draw equal architectures.")] = 0,
    at: Annotated[
        int, typer.Option("--context", metavar="N", min=1, help="Tokens at which state bytes are counted.")
    ] = 4096,
    form: FormatOption = Format.TABLE,
) -> None:
    """Draw architectures of a space at random, with what can be counted of them."""
    from hybridsearch.spec.canonical import canonical_json

    drawn = preview.samples(load(space), seed, count)
    rows = preview.architecture_rows(drawn, at, control=False)
    if form is Format.JSON:
        described = [json.loads(canonical_json(architecture)) for architecture in drawn.values()]
        rows = [{**row, "architecture": text} for row, text in zip(rows, described, strict=True)]
    show.listing(rows, preview.ARCHITECTURE_COLUMNS, form)


def load(source: str) -> "Space":
    """The space of a preset or a file.

    Raises:
        InvalidFile: the file is missing, of another kind, or breaks the grammar.
        InvalidSetting: no preset has this name.
    """
    from hybridsearch.search_spaces import catalog, ready_made

    if source in ready_made.searches() and source not in catalog.presets():
        space = ready_made.read(source).data["space"]
        raise InvalidSetting(f"`{source}` is a search, not a space; its space is `{space}`")
    return catalog.load(kinds.expect(catalog.document(source), "space"))
