"""`hybridsearch pareto`: the front of a study as a listing or a figure, from the store alone."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from hybridsearch.cli import session, show
from hybridsearch.cli.show import Format, FormatOption
from hybridsearch.errors import InvalidSetting

if TYPE_CHECKING:
    from hybridsearch.control.standing import Outline, Standing
    from hybridsearch.settings import SearchSettings

EXAMPLES = show.examples(
    "hybridsearch pareto quickstart",
    "hybridsearch pareto quickstart --all --format csv > trials.csv",
    "hybridsearch pareto quickstart --plot front.html",
)
FIGURES = {".html": "front.html", ".png": "front.png"}


def pareto(
    context: typer.Context,
    study: Annotated[str, typer.Argument(help="Name of the study.")],
    everything: Annotated[bool, typer.Option("--all", help="List every finished trial, not the front alone.")] = False,
    plot: Annotated[
        Path | None, typer.Option(metavar="FILE.html|FILE.png", help="Draw the front into a file as well.")
    ] = None,
    form: FormatOption = Format.TABLE,
) -> None:
    """Show the front: finished trials that no other one beats in every objective, and the controls among them."""
    if plot is not None and plot.suffix not in FIGURES:
        raise InvalidSetting(f"{plot} does not end in {' or '.join(FIGURES)}; choose one of them")
    stands: Standing | Outline
    if everything or plot is not None:
        settings, whole = read(session.of(context), study)
        stands, finished = whole, len(whole.points)
    else:
        settings, stands = outlined(session.of(context), study)
        finished = stands.finished
    shown = whole.points if everything else stands.front
    rows = show.point_rows(shown, settings.objective_list)
    columns = show.point_columns(settings.objective_list, marked=everything)
    show.listing(rows, columns, form, empty=f"no trial of {study} has finished yet")
    if form is Format.TABLE and rows:
        show.line(f"\n{len(stands.front)} of {finished} finished trials are on the front")
    if plot is not None:
        _draw(plot, study, settings, whole)


def read(place: session.Session, study: str) -> "tuple[SearchSettings, Standing]":
    """Settings and standing of a study.

    Raises:
        UnknownStudy: the store has none of that name.
        StoreUnavailable: there is no store, or it cannot be read.
    """
    from hybridsearch.control.standing import standing
    from hybridsearch.settings import SearchSettings

    with place.open_store() as store:
        settings = SearchSettings.model_validate_json(store.study(study).settings_json)
        return settings, standing(settings, store.trials(study))


def outlined(place: session.Session, study: str) -> "tuple[SearchSettings, Outline]":
    """Settings and front of a study, without its other trials.

    Raises:
        UnknownStudy: the store has none of that name.
        StoreUnavailable: there is no store, or it cannot be read.
    """
    from hybridsearch.control.standing import outline
    from hybridsearch.settings import SearchSettings

    with place.open_store() as store:
        settings = SearchSettings.model_validate_json(store.study(study).settings_json)
        return settings, outline(settings, store, study)


def _draw(plot: Path, study: str, settings: "SearchSettings", stands: "Standing") -> None:
    if not stands.points:
        raise InvalidSetting(f"there is nothing to draw: no trial of {study} has finished yet")
    from hybridsearch.errors import StoreUnavailable
    from hybridsearch.reporting.plots.files import figure_files

    content = figure_files(study, stands.points, settings.objective_list, stands.progress)[FIGURES[plot.suffix]]
    try:
        plot.write_bytes(content)
    except OSError as error:
        raise StoreUnavailable(f"{plot} cannot be written: {error.strerror}; choose another place") from None
    show.note(f"wrote {plot}")
