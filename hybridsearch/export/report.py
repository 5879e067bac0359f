"""A card of one architecture in Markdown: what it is, what was measured, how it compares, how to use it."""

import json
from collections.abc import Sequence

from hybridsearch.objectives import Objective
from hybridsearch.reporting.points import Point, levels
from hybridsearch.reporting.wording import amount, describe_layers, label, runs
from hybridsearch.spec import canonical, cost

Row = Sequence[str]


def card(
    point: Point,
    *,
    study: str,
    objectives: Sequence[Objective],
    context: int,
    controls: Sequence[Point] = (),
    file_name: str = "architecture.yaml",
) -> str:
    """The card of a finished trial; `controls` are compared with it, `context` is where memory is counted."""
    parts = (
        f"# {point.name}\n\n{_summary(point, study)}",
        "## Layers\n\n" + _layers(point),
        "## Measured\n\n" + _measured(point, objectives),
        _comparison(point, objectives, controls),
        "## Counted\n\n" + _counted(point, context),
        "## Use\n\n" + _use(file_name),
    )
    return "\n\n".join(part for part in parts if part) + "\n"


def _summary(point: Point, study: str) -> str:
    place = "on the front" if point.on_front else "not on the front"
    kind = f"control `{point.control}`" if point.control else f"trial {point.trial}"
    return f"Study `{study}`, {kind}, {place}. Hash `{point.hash}`."


def _layers(point: Point) -> str:
    texts = describe_layers(json.loads(point.canonical))
    rows = [(str(first) if first == last else f"{first} to {last}", text) for first, last, text in runs(texts)]
    return _table(("layer", "mixer and feed-forward"), rows)


def _measured(point: Point, objectives: Sequence[Objective]) -> str:
    ladder = {f"recall/{length}x{pairs}" for length, pairs, _ in levels(point.metrics)}
    first = [o.name for o in objectives]
    names = first + sorted(name for name in point.metrics if name not in first and _shown(name, ladder))
    rows = []
    for name in names:
        spread = point.metrics[name]
        extent = f"{amount(spread.low)} to {amount(spread.high)} ({spread.count})" if spread.count > 1 else ""
        rows.append((label(name), amount(spread.value), extent))
    note = "\n\nRanges: smallest to largest seed, or quartiles of the timed repeats; the number of them in brackets."
    return _table(("metric", "value", "range"), rows) + note


def _shown(name: str, ladder: set[str]) -> bool:
    return name in ladder or "_tokens_per_second/" in name or name in ("cache_bytes", "softmax_share")


def _comparison(point: Point, objectives: Sequence[Objective], controls: Sequence[Point]) -> str:
    others = [c for c in controls if c.control and c.trial != point.trial]
    if not others:
        return ""
    rows = []
    for other in others:
        ratios = [_against(point, other, objective) for objective in objectives]
        rows.append((f"`{other.control}`", *ratios, _times(point.state_bytes / other.state_bytes)))
    head = ("control", *(label(o.name) for o in objectives), "counted memory")
    return "## Against the controls\n\n" + _table(head, rows)


def _against(point: Point, other: Point, objective: Objective) -> str:
    """Fractions are compared by difference, everything else by ratio."""
    mine, its = point.metrics[objective.name].value, other.metrics[objective.name].value
    if objective.unit.startswith("fraction"):
        return f"{mine - its:+.3f}"
    return _times(mine / its) if its else "-"


def _times(ratio: float) -> str:
    return f"{ratio:.2f}x" if ratio >= 0.1 else f"{ratio:.1g}x"


def _counted(point: Point, context: int) -> str:
    architecture = canonical.parse(point.canonical)
    rows = (
        ("parameters without embedding", amount(cost.parameters(architecture))),
        (f"decode memory of one sequence at {context} tokens", f"{amount(cost.state_bytes(architecture, context))}B"),
        (
            f"FLOPs of a decoded token at {context} tokens, without output head",
            amount(cost.flops_per_token(architecture, context)),
        ),
        ("layers with unbounded softmax attention", f"{cost.full_layers(architecture)} of {len(architecture.layers)}"),
    )
    return _table(("count", "value"), rows)


def _use(file_name: str) -> str:
    return f"```sh\nhybridsearch train {file_name} --data book.txt\n```"


def _table(head: Row, rows: Sequence[Row]) -> str:
    lines = ["| " + " | ".join(_cell(cell) for cell in row) + " |" for row in (head, *rows)]
    return "\n".join([lines[0], "|" + "---|" * len(head), *lines[1:]])


def _cell(text: str) -> str:
    return text.replace("|", "\\|")
