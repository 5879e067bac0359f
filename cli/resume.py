"""`hybridsearch resume`: go on with a search that was interrupted, killed, or is to search longer."""

from math import ceil
from typing import TYPE_CHECKING, Annotated

import typer

from hybridsearch.cli import live, running, session, show

if TYPE_CHECKING:
    from hybridsearch.control.budget import Spent
    from hybridsearch.db.store import Store
    from hybridsearch.settings import BudgetSettings

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
    from hybridsearch.control.budget import exhausted, parse

    place = session.of(context)
    change = launch.with_limits(None if budget is None else parse(budget), workers)
    with place.open_store() as store:
        settings = change(launch.recorded_settings(store.study(study)))
        used = spent(store, study)
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
    if used is not None and (limit := exhausted(settings.budget, used)):
        more = f"hybridsearch resume {study} --budget {_larger(settings.budget, used)}{place.options()}"
        show.note(f"nothing new was tried: {limit}; for more:  {more}")
    raise typer.Exit(code)


def spent(store: "Store", study: str) -> "Spent | None":
    """What a study has used of its budget; none if there are trials to go on with in any case."""
    from hybridsearch.control.budget import Spent
    from hybridsearch.trial import TrialState

    tally = store.tally(study)
    if any(not alike.state.final for alike in tally):
        return None
    trials = sum(a.count for a in tally if not a.control and a.state is not TrialState.SCREENED)
    return Spent(trials=trials, minutes=store.study(study).elapsed / 60)


def _larger(budget: "BudgetSettings", used: "Spent") -> str:
    """As much again as the budget, beyond what is used."""
    if budget.trials is not None:
        return f"{used.trials + budget.trials}trials"
    return f"{ceil(used.minutes + (budget.minutes or 1.0))}m"
