"""A space in words: the rows that `hybridsearch spaces show` prints."""

from hybridsearch.search_spaces import size
from hybridsearch.search_spaces.controls import controls
from hybridsearch.search_spaces.encoding import parameters
from hybridsearch.search_spaces.menu import Entry
from hybridsearch.search_spaces.space import Limits, Space
from hybridsearch.spec import cost
from hybridsearch.spec.architecture import Architecture
from hybridsearch.spec.canonical import readable_name

CONTEXT = 4096
"""Tokens in memory at which states are shown, unless the space constrains another context."""


def describe(space: Space) -> tuple[tuple[str, str], ...]:
    """Name and value of each property, in reading order."""
    found = size.count(space)
    rows = [
        ("description", space.description),
        ("architectures", f"{found.architectures:,}" if found.exact else f"at most {_short(found.architectures)}"),
        ("depth", _listed(space.depth)),
        ("width", _listed(space.width)),
        *((f"mixer {entry.name}", _entry(entry)) for entry in space.menu.entries.values()),
        *_rules(space),
        ("feed-forward", _feed_forward(space)),
        *_constraints(space),
        ("encoded as", f"{len(parameters(space))} parameters"),
        *((f"control {name}", _control(space, control)) for name, control in controls(space).items()),
    ]
    return tuple((name, value) for name, value in rows if value)


def _entry(entry: Entry) -> str:
    """Options that are to choose, or that differ from `null`, with all their values."""
    shown = {option: values for option, values in entry.choices.items() if values not in ((None,), (False,), (0,))}
    return f"{entry.kind}: " + ", ".join(f"{option} {_listed(values)}" for option, values in shown.items())


def _rules(space: Space) -> list[tuple[str, str]]:
    rows = [("each layer one of", _listed(space.free))]
    pattern = space.layers.pattern
    if pattern is not None:
        linears, fulls = space.roles
        text = f"{_listed(linears)} : {_listed(fulls)} at {_listed(pattern.ratio)}, placed {_listed(pattern.placement)}"
        rows.append(("or a pattern" if space.free else "pattern", text))
    keys = ("not_first", "not_last", "not_adjacent")
    return rows + [(key.replace("_", " "), _listed(getattr(space.layers, key))) for key in keys]


def _feed_forward(space: Space) -> str:
    rule = space.feed_forward
    if rule.parameters is not None:
        return f"solved for {space.target:,} parameters within {rule.parameters.tolerance:.1%}"
    return f"width {_listed(rule.width)}" if rule.width else f"{_listed(rule.ratio or ())} residual widths"


def _constraints(space: Space) -> list[tuple[str, str]]:
    rules = space.constraints
    rows = [("full layers", _limits(rules.full_layers)), ("parameters", _limits(rules.parameters))]
    if rules.state_bytes is not None:
        rows.append((f"state bytes at {rules.state_bytes.context} tokens", _limits(rules.state_bytes)))
    return rows


def _limits(limits: Limits | None) -> str:
    if limits is None:
        return ""
    least = "" if limits.minimum is None else f"at least {limits.minimum:,}"
    most = "" if limits.maximum is None else f"at most {limits.maximum:,}"
    return ", ".join(filter(None, (least, most)))


def _control(space: Space, control: Architecture) -> str:
    limits = space.constraints.state_bytes
    context = limits.context if limits is not None else CONTEXT
    weights, state = cost.parameters(control), cost.state_bytes(control, context)
    return (
        f"{readable_name(control)}: width {control.width}, feed-forward {control.layers[0].feed_forward}, "
        f"{weights:,} parameters, {state:,} bytes of state at {context} tokens"
    )


def _listed(values: tuple[object, ...]) -> str:
    return " | ".join("none" if value is None else str(value) for value in values)


def _short(count: int) -> str:
    return f"{count:,}" if count < 10**7 else f"{count:.1e}"
