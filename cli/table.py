"""`hybridsearch table`: finished trainings as one file, and what such a file holds."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from hybridsearch.cli import session, show
from hybridsearch.cli.show import Format, FormatOption
from hybridsearch.errors import InvalidSetting

if TYPE_CHECKING:
    from hybridsearch.tabular.table import Table

BUILD_EXAMPLES = show.examples(
    "hybridsearch table build quickstart --output quickstart.parquet",
    "hybridsearch table build first second --output both.parquet",
    "hybridsearch table build records.jsonl --output recall.parquet",
    "hybridsearch table build recall.parquet more.jsonl --output larger.parquet",
)
SHOW_EXAMPLES = show.examples(
    "hybridsearch table show recall.parquet", "hybridsearch table show recall.parquet --format json"
)
app = typer.Typer(
    help="Tables of finished trainings: build one of studies, show one; `search --replay` searches one.",
    rich_markup_mode=None,
    no_args_is_help=True,
    epilog=BUILD_EXAMPLES,
)


@app.command("build", short_help="Write finished trainings as one file.", epilog=BUILD_EXAMPLES)
def build(
    context: typer.Context,
    sources: Annotated[
        list[str], typer.Argument(metavar="STUDY|RECORDS.jsonl|TABLE.parquet...", help="What the table is made of.")
    ],
    output: Annotated[Path, typer.Option(metavar="TABLE.parquet", help="The file to write.")],
) -> None:
    """Write the trained trials of studies (or records of benchmarks/build_table.py, or tables) as one Parquet file."""
    from hybridsearch.control import tabulate
    from hybridsearch.tabular import parquet

    if output.suffix != ".parquet":
        raise InvalidSetting(f"{output} does not end in .parquet; name it {output.with_suffix('.parquet')}")
    if all(source.endswith((tabulate.RECORDS, tabulate.TABLE)) for source in sources):
        table = tabulate.build(sources, None)
    else:
        with session.of(context).open_store() as store:
            table = tabulate.build(sources, store)
    parquet.write(table, output)
    show.note(f"wrote {output}: {len(table.candidates):,} candidates, {len(table.runs):,} runs")


@app.command("show", short_help="Show what such a file holds.", epilog=SHOW_EXAMPLES)
def show_table(
    table: Annotated[Path, typer.Argument(metavar="TABLE.parquet", help="The file.")],
    form: FormatOption = Format.TABLE,
) -> None:
    """Show what a table holds: counts, what its numbers mean, their ranges, and its best front."""
    from hybridsearch.tabular import parquet

    found = parquet.read(table)
    facts, ranges, front = summary(found), _ranges(found), _front(found)
    if form is Format.JSON:
        show.as_json({"facts": facts, "ranges": ranges, "front": front})
        return
    if form is Format.CSV:
        show.listing(front, [], form)
        return
    show.pairs([(key.replace("_", " "), str(value)) for key, value in facts.items()])
    show.line("\nranges of the means over the seeds, at the last rung")
    show.listing(ranges, _columns("metric", "least", "median", "most"), form)
    show.line(f"\nbest front: {len(front)} of {len(found.candidates)} candidates")
    show.listing(front, _columns("name", *found.about.objectives, "parameters"), form)


def summary(table: "Table") -> dict[str, Any]:
    """Counts and origin, by name."""
    about = table.about
    failed = sum(run.failure is not None for run in table.runs)
    seeds = sorted({len(table.of(digest)) for digest in table.candidates})
    return {
        "candidates": len(table.candidates),
        "runs": len(table.runs),
        "failed_runs": failed,
        "incomplete_runs": sum(not table.complete(run) for run in table.runs),
        "runs_of_a_candidate": " to ".join(map(str, dict.fromkeys((seeds[0], seeds[-1])))) if seeds else "0",
        "rungs_in_steps": ", ".join(map(str, about.evaluation.rungs.steps)),
        "task": about.evaluation.task.name,
        "objectives": ", ".join(about.objectives),
        "space": about.space.get("description") or "without description",
        "machines": "; ".join(map(show.machine, about.machines)),
        "versions": ", ".join(f"{name} {version}" for name, version in about.versions.items()),
        "commit": about.commit or "unknown",
        "sources": ", ".join(about.sources),
        "seconds_are": about.seconds,
        "seconds_in_all": round(sum(run.seconds for run in table.runs)),
    }


def _ranges(table: "Table") -> list[dict[str, Any]]:
    import statistics

    finals = list(table.finals().values())
    names = [name for name in (finals[0] if finals else {}) if all(name in row for row in finals)]
    rows = []
    for name in sorted(names):
        values = [row[name] for row in finals]
        low, middle, high = min(values), statistics.median(values), max(values)
        rows.append({"metric": name, "least": low, "median": middle, "most": high})
    return rows


def _front(table: "Table") -> list[dict[str, Any]]:
    finals = table.finals()
    rows = []
    for digest, _ in table.front().members:
        candidate = table.candidates[digest]
        own = {name: finals[digest][name] for name in table.about.objectives}
        rows.append({"name": candidate.name, "hash": digest, **own, "parameters": candidate.parameters})
    return rows


def _columns(*names: str) -> list[show.Column]:
    text = names[0]
    numbers = [show.Column(name, name.replace("_", " "), show.number, right=True) for name in names[1:]]
    return [show.Column(text, text), *numbers]
