"""`hybridsearch search --dry-run`: what would be searched, with nothing trained and nothing written."""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from hybridsearch.cli import show
from hybridsearch.cli.show import Column

if TYPE_CHECKING:
    from hybridsearch.search_spaces.space import Space
    from hybridsearch.settings import SearchSettings
    from hybridsearch.spec.architecture import Architecture
    from hybridsearch.yaml_files import Document

SAMPLES = 5
COMMENT = "# "
"""Before what is no setting: the whole is a YAML file."""


def show_plan(settings: "SearchSettings", source: "Document") -> None:
    """Print the resolved settings, the space's size, controls, samples and rungs.

    Raises:
        InvalidFile: the space breaks its schema.
        Infeasible: nothing in the space meets its constraints, or the search's.
    """
    from hybridsearch import yaml_files
    from hybridsearch.control.candidates import require_feasible
    from hybridsearch.search_spaces import catalog, size
    from hybridsearch.search_spaces.controls import controls

    space = catalog.load(source)
    context = settings.evaluation.throughput.contexts[-1]
    require_feasible(space, settings.constraint_list, context, settings.seed)
    compared = controls(space)
    sampled = samples(space, settings.seed)
    preset = isinstance(settings.space, str) and settings.space in catalog.presets()
    whole = settings.space if preset else dict(source.data)  # so that it loads anywhere
    show.line("# resolved settings; saved as a file, all of this searches with exactly these\n")
    show.line(yaml_files.dump({**settings.model_dump(mode="json"), "space": whole}))
    found = size.count(space)
    amount = f"{found.architectures:,}" if found.exact else f"at most {found.architectures:,}"
    show.line(f"# space: {amount} architectures")
    show.line(f"\n# controls, and {len(sampled)} samples; state bytes of one sequence at {context} tokens")
    rows = architecture_rows(compared, context) + architecture_rows(sampled, context, control=False)
    show.put(show.table(rows, ARCHITECTURE_COLUMNS), before=COMMENT)
    show.line("\n# work")
    show.pairs(_work(settings, len(compared)), before=COMMENT)


def samples(space: "Space", seed: int, count: int = SAMPLES) -> "dict[str, Architecture]":
    """Architectures of the space at random, by `sample 1`, ...

    Raises:
        Infeasible: nothing in the space meets its constraints.
    """
    from hybridsearch import seeds
    from hybridsearch.search_spaces.sampling import sample

    rng = seeds.stream(seed, "samples")
    return {f"sample {number}": sample(space, rng) for number in range(1, count + 1)}


ARCHITECTURE_COLUMNS = (
    Column("label", ""),
    Column("width", "width", right=True),
    Column("depth", "depth", right=True),
    Column("full_layers", "full layers", right=True),
    Column("parameters", "parameters", show.number, right=True),
    Column("state_bytes", "state bytes", show.number, right=True),
    Column("name", "architecture"),
)


def architecture_rows(
    architectures: "Mapping[str, Architecture]", context: int, *, control: bool = True
) -> list[dict[str, Any]]:
    """Architectures as rows, with what can be counted of them."""
    from hybridsearch.spec import cost
    from hybridsearch.spec.canonical import content_hash, readable_name

    return [
        {
            "label": label,
            "control": control,
            "width": a.width,
            "depth": len(a.layers),
            "full_layers": cost.full_layers(a),
            "parameters": cost.parameters(a),
            "state_bytes": cost.state_bytes(a, context),
            "flops_per_token": cost.flops_per_token(a, context),
            "name": readable_name(a),
            "hash": content_hash(a),
        }
        for label, a in architectures.items()
    ]


def _work(settings: "SearchSettings", compared: int) -> list[tuple[str, str]]:
    evaluation = settings.evaluation
    rungs, training = evaluation.rungs, evaluation.training
    runs = sum(evaluation.runs)
    steps = " -> ".join(str(steps) for steps in rungs.steps)
    one = f"about one in {rungs.reduction:g} goes on"
    stopping = {"promote": f"{one}, the others pause", "stop": one, "off": "all go on"}[settings.stopping]
    levels = ", ".join(f"{level.length} tokens with {level.pairs} pairs" for level in evaluation.task.test)
    rows = [
        ("rungs", f"{steps} optimiser steps; {stopping} at each"),
        ("a trial", f"{runs} training run{'s' * (runs > 1)} of up to {rungs.steps[-1]} steps of {training.batch}"),
        ("scored on", levels),
        ("trials", f"{compared} controls and {_budget(settings)}"),
    ]
    if settings.budget.trials is not None:
        most = (settings.budget.trials + compared) * sum(
            n * end for n, end in zip(evaluation.runs, rungs.steps, strict=True)
        )
        rows.append(("at most", f"{most:,} optimiser steps altogether"))
    # Seconds a step depend on machine, architecture and load: a number here would be a guess.
    rows.append(("time", "not known before the controls have run; `--budget 30m` bounds it"))
    return rows


def _budget(settings: "SearchSettings") -> str:
    budget = settings.budget
    parts = [f"{budget.trials} candidates"] if budget.trials else []
    parts += [f"what fits into {budget.minutes:g} minutes"] if budget.minutes else []
    return " or ".join(parts)
