"""`hybridsearch resume`: go on with a search that was interrupted, killed, or is to search longer."""

from typing import Annotated

import typer

from hybridsearch.cli import live, running, session, show

EXAMPLES = show.examples(
    "hybridsearch resume quickstart",
    "hybridsearch resume quickstart --budget 40trials",
    "hybridsearch resume quickstart --workers 1",
)


def resume(
    context: typer.Context,
    study: Annotated[str, typer.Argument(help="Name of the study.")],
    budget: Annotated[
        str | None,
        typer.Option(
            metavar="20trials|30m|2h|20trials,30m", help="New budget of the whole search, what is done included."
        ),
    ] = None,
    workers: Annotated[int | None, typer.Option(min=1, help="Trials at once.")] = None,
    address: Annotated[
        str | None, typer.Option(metavar="HOST:PORT|auto", help="A running Ray cluster; default: this machine.")
    ] = None,
) -> None:
    """Go on with a study: interrupted trials first, from their checkpoints, then the rest of the budget."""
    from hybridsearch.control import launch, replay
    from hybridsearch.control.budget import parse

    place = session.of(context)
    change = launch.with_limits(None if budget is None else parse(budget), workers)
    with place.open_store() as store:
        settings = change(launch.recorded_settings(store.study(study)))
    execute: launch.Execute
    clock = None
    if settings.replay is not None:
        place = running.on_paper(place)
        execute, clock = replay.executor(settings)
    else:
        execute = running.executor(address, place.places().study(study) / "ray.log")
    with live.view(study, settings, quiet=place.quiet) as view:
        outcome = launch.resume(study, place.places(), execute, view, change, clock=clock)
    raise typer.Exit(running.summary(place, outcome))
