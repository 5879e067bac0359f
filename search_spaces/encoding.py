"""A space as a flat list of named choices, for samplers that know nothing of trees. Few parameters, always valid.

A pattern takes its ratio, placement and two mixers; a free stack one choice a layer; each option of the menu one
choice for the whole architecture. Values that a point does not use (layers beyond its depth, options of mixers that
it has not) are ignored by `decode`, and set to the first choice by `encode`.
"""

from collections.abc import Mapping
from dataclasses import dataclass

from hybridsearch import seeds
from hybridsearch.errors import InvalidArchitecture, InvalidSetting
from hybridsearch.search_spaces import patterns, repair, sampling
from hybridsearch.search_spaces.menu import Value
from hybridsearch.search_spaces.plan import Plan, read
from hybridsearch.search_spaces.rules import judge
from hybridsearch.search_spaces.space import Space
from hybridsearch.spec.architecture import Architecture
from hybridsearch.spec.canonical import content_hash

MOST_SCATTERS = 1_000_000
Values = Mapping[str, Value]


@dataclass(frozen=True, slots=True)
class Categorical:
    """One of some values without order."""

    name: str
    choices: tuple[Value, ...]

    @property
    def first(self) -> Value:
        """The value of a point that does not use the parameter."""
        return self.choices[0]


@dataclass(frozen=True, slots=True)
class Integer:
    """A whole number, both ends included."""

    name: str
    low: int
    high: int

    @property
    def first(self) -> Value:
        """The value of a point that does not use the parameter."""
        return self.low


Parameter = Categorical | Integer


def parameters(space: Space) -> tuple[Parameter, ...]:
    """The space's parameters; what has only one choice is left out."""
    found = [
        _size("depth", space.depth),
        _size("width", space.width),
        Categorical("feed_forward", space.feed_forwards),
        *_pattern_parameters(space),
        *(Categorical(f"layer_{layer}", space.free) for layer in range(max(space.depth) if space.free else 0)),
        *(Categorical(key, values) for key, values in space.menu.choices.items()),
    ]
    return tuple(parameter for parameter in found if _count(parameter) > 1)


def decode(space: Space, values: Values) -> Architecture:
    """The architecture of a point; one that breaks a rule is replaced by one of the space near it, always the same.

    Raises:
        InvalidSetting: a parameter or value is not one of `parameters(space)`.
        Infeasible: no architecture meets the constraints.
    """
    _check(space, values)
    values = {**{parameter.name: parameter.first for parameter in parameters(space)}, **values}
    rng = seeds.stream(0, "decode", *(f"{key}={values[key]!r}" for key in sorted(values)))
    verdict = repair.repair(space, _plan(space, values), rng)
    if verdict.architecture is not None and not verdict.faults:
        return verdict.architecture
    return sampling.sample(space, rng)


def encode(space: Space, architecture: Architecture) -> dict[str, Value] | None:
    """A point that decodes to this architecture; None if there is none, e.g. if it lies outside the space."""
    try:
        plan = read(space, architecture)
    except InvalidArchitecture:
        return None
    if judge(space, plan).faults:
        return None
    values = {parameter.name: parameter.first for parameter in parameters(space)}
    chosen: dict[str, Value] = {"depth": plan.depth, "width": plan.width, "feed_forward": plan.feed_forward}
    pattern = patterns.recognise(space, plan.layers)
    chosen |= _pattern_values(space, pattern, plan.depth) if pattern else {"rule": "free"}
    chosen |= {f"layer_{layer}": name for layer, name in enumerate(plan.layers) if name in space.free}
    chosen |= {key: plan.options[key] for key in space.menu.keys(plan.layers, plan.options)}
    values |= {key: value for key, value in chosen.items() if key in values}
    found = judge(space, _plan(space, values)).architecture
    return values if found is not None and content_hash(found) == content_hash(architecture) else None


def _plan(space: Space, values: Values) -> Plan:
    depth, width = values.get("depth", space.depth[0]), values.get("width", space.width[0])
    choice = values.get("feed_forward", space.feed_forwards[0])
    assert isinstance(depth, int) and isinstance(width, int) and not isinstance(choice, str)
    options = {key: values.get(key, first) for key, first in space.menu.first.items()}
    if space.layers.pattern is not None and values.get("rule", "pattern") == "pattern":
        layers = patterns.lay(_pattern(space, values, depth), depth)
    else:
        layers = tuple(str(values.get(f"layer_{layer}", space.free[0])) for layer in range(depth))
    return Plan(width, layers, options, choice)


def _pattern(space: Space, values: Values, depth: int) -> patterns.Pattern:
    rule, (linears, fulls) = space.layers.pattern, space.roles
    assert rule is not None
    ratio = str(values.get("ratio", rule.ratio[0]))
    scatter = values.get("scatter", 0)
    assert isinstance(scatter, int)
    return patterns.Pattern(
        ratio=ratio,
        placement=str(values.get("placement", rule.placement[0])),
        linear=str(values.get("linear", linears[0])),
        full=str(values.get("full", fulls[0])),
        scatter=scatter * patterns.scatters(ratio, depth) // _scatter_count(space),
    )


def _pattern_values(space: Space, pattern: patterns.Pattern, depth: int) -> dict[str, Value]:
    all_scatters, scatters = _scatter_count(space), patterns.scatters(pattern.ratio, depth)
    return {
        "rule": "pattern",
        "ratio": pattern.ratio,
        "placement": pattern.placement,
        "linear": pattern.linear,
        "full": pattern.full,
        "scatter": min(all_scatters - 1, -(-pattern.scatter * all_scatters // scatters)),
    }


def _pattern_parameters(space: Space) -> list[Parameter]:
    rule, (linears, fulls) = space.layers.pattern, space.roles
    if rule is None:
        return []
    found: list[Parameter] = [
        Categorical("ratio", rule.ratio),
        Categorical("placement", rule.placement),
        Categorical("linear", linears),
        Categorical("full", fulls),
    ]
    if "scattered" in rule.placement:
        found.append(Integer("scatter", 0, _scatter_count(space) - 1))
    return [Categorical("rule", ("pattern", "free")), *found] if space.free else found


def _scatter_count(space: Space) -> int:
    """Values of `scatter`: enough to reach every placement, up to a bound."""
    rule = space.layers.pattern
    assert rule is not None
    most = max(patterns.scatters(ratio, depth) for ratio in rule.ratio for depth in space.depth)
    return min(most, MOST_SCATTERS)


def _size(name: str, choices: tuple[int, ...]) -> Parameter:
    low, high = min(choices), max(choices)
    if high - low + 1 == len(choices):
        return Integer(name, low, high)
    return Categorical(name, choices)


def _count(parameter: Parameter) -> int:
    if isinstance(parameter, Categorical):
        return len(parameter.choices)
    return parameter.high - parameter.low + 1


def _check(space: Space, values: Values) -> None:
    known = {parameter.name: parameter for parameter in parameters(space)}
    for name, value in values.items():
        if name not in known:
            raise InvalidSetting(f"unknown parameter {name!r}; known: {', '.join(known)}")
        parameter = known[name]
        if isinstance(parameter, Categorical):
            fits = value in parameter.choices
        else:
            fits = isinstance(value, int) and parameter.low <= value <= parameter.high
        if not fits:
            raise InvalidSetting(f"{value!r} is no value of the parameter {name!r}: {parameter}")
