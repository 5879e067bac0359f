"""`hybridsearch export`: an architecture of a study as a YAML file that `train` reads, with its numbers and origin."""

import shlex
from pathlib import Path
from typing import Annotated

import typer

from hybridsearch.cli import session, show
from hybridsearch.cli.pareto import read
from hybridsearch.errors import InvalidSetting

EXAMPLES = show.examples(
    "hybridsearch export quickstart --pick knee --out best.yaml",
    "hybridsearch export quickstart --pick throughput",
    "hybridsearch export quickstart --pick 3f9a01bc --card",
    "hybridsearch export quickstart --pick knee --out - | less",
)
SCREEN = "-"


def export(
    context: typer.Context,
    study: Annotated[str, typer.Argument(metavar="STUDY", help="Name of the study.")],
    pick: Annotated[
        str,
        typer.Option(
            metavar="knee|recall|throughput|HASH|#TRIAL|CONTROL",
            help="Which one: the front's knee, the front's best in an objective, or one by its digits, number or name.",
        ),
    ] = "knee",
    out: Annotated[
        str | None, typer.Option(metavar="FILE", help="File to write, or - to print; default: in the study's folder.")
    ] = None,
    card: Annotated[bool, typer.Option("--card", help="Write a card in Markdown beside the file too.")] = False,
) -> None:
    """Write an architecture of a study as YAML: what it is, what it costs, what was measured, where it comes from."""
    check(out, card=card)
    place = session.of(context)
    settings, stands = read(place, study)
    from hybridsearch.control.launch import export_text
    from hybridsearch.export import native, report
    from hybridsearch.export.picks import pick as picked

    point = picked(stands.points, pick, settings.objective_list)
    with place.open_store() as store:
        made_by, reports = store.study(study).versions, store.trial(study, point.trial).reports
    device = show.machine(reports[-1].device) if reports else ""
    text = export_text(settings, point, study, made_by=made_by, device=device)
    if out == SCREEN:
        show.line(text.rstrip("\n"))
        return
    path = Path(out) if out else place.folder / study / "exports" / f"{point.name}.yaml"
    native.write(path, text)
    show.line(str(path))
    if card:
        beside = path.with_suffix(".md")
        content = report.card(
            point,
            study=study,
            objectives=settings.objective_list,
            context=settings.evaluation.throughput.contexts[-1],
            controls=[p for p in stands.points if p.control],
            file_name=path.name,
        )
        native.write(beside, content)
        show.line(str(beside))
    show.note(f"train it on text:  hybridsearch train {shlex.quote(str(path))} --data book.txt")


def check(out: str | None, *, card: bool) -> None:
    """Refuse to write over what `export` has not written, or the card over its own YAML.

    Raises:
        InvalidSetting: it would be.
    """
    from hybridsearch.export import native

    if card and out == SCREEN:
        raise InvalidSetting("--card writes a file beside the YAML; give that one a name with --out FILE")
    if out is None or out == SCREEN:
        return
    if card and Path(out).suffix == ".md":
        raise InvalidSetting(f"the card would be written over {out}; give --out a name that ends in .yaml")
    if native.is_foreign(Path(out)):
        raise InvalidSetting(f"{out} exists and is no export; choose another name, or delete it first")
