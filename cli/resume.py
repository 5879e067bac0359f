"""`hybridsearch resume`: go on with a search that was interrupted, killed, or is to search longer."""

from typing import TYPE_CHECKING, Annotated

import typer

from hybridsearch.cli import live, running, session, show

if TYPE_CHECKING:
    from hybridsearch.db.store import Store
    from hybridsearch.settings import BudgetSettings, SearchSettings

EXAMPLES = show.examples(
    "hybridsearch resume quickstart",
    "hybridsearch resume quickstart --budget 40trials",
    "hybridsearch resume quickstart --workers 1",
)


def resume(
    context: typer.Context,
    study: Annotated[str, typer.Argument(metavar="STUDY", help="Name of the study.")],
    budget: Annotated[
        str | None,
        typer.Option(
            metavar="20trials|30m|2h|20trials,30m", help="New budget of the whole search, what is done included."
        ),
    ] = None,
    workers: Annotated[int | None, typer.Option(metavar="N", min=1, help="Trials at once.")] = None,
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
        used_up = spent(store, study, settings)
    execute: launch.Execute
    clock = None
    if settings.replay is not None:
        places = running.on_paper(place).places()
        execute, clock = replay.executor(settings)
    else:
        places = place.places()
        execute = running.executor(address, places.study(study) / "ray.log")
    with running.interruptible(place, study), live.view(study, settings, quiet=place.quiet) as view:
        outcome = launch.resume(study, places, execute, view, change, clock=clock)
    code = running.summary(place, outcome)
    if used_up:
        more = f"hybridsearch resume {study} --budget {_larger(settings.budget)}{place.options()}"
        show.note(f"nothing new was tried: {used_up}; for more:  {more}")
    raise typer.Exit(code)


def spent(store: "Store", study: str, settings: "SearchSettings") -> str | None:
    """The limit that keeps a study from trying anything new, in words, if no trial is left to go on with either."""
    from hybridsearch.control.budget import Spent, exhausted
    from hybridsearch.trial import TrialState

    tally = store.tally(study)
    if any(not alike.state.final for alike in tally):
        return None
    trials = sum(a.count for a in tally if not a.control and a.state is not TrialState.SCREENED)
    return exhausted(settings.budget, Spent(trials=trials, minutes=store.study(study).elapsed / 60))


def _larger(budget: "BudgetSettings") -> str:
    return f"{2 * budget.trials}trials" if budget.trials else f"{2 * (budget.minutes or 0):g}m"
