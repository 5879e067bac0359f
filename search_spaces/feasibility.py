"""Proof, from bounds alone, that no architecture of a space can meet its constraints. No proof means nothing."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

from hybridsearch.search_spaces import feed_forward, placement
from hybridsearch.search_spaces.rules import mixer_state
from hybridsearch.spec import cost
from hybridsearch.spec.architecture import Architecture, Layer

if TYPE_CHECKING:
    from hybridsearch.search_spaces.space import Space

Range = tuple[int, int]


@dataclass(frozen=True, slots=True)
class Bounds:
    """What one layer of an entry can cost, over its options."""

    full: bool
    state: Range
    parameters: Range


@dataclass(frozen=True, slots=True)
class Demand:
    """A counted quantity, what is allowed, and what a stack can reach."""

    rule: str
    possible: Range
    minimum: int | None
    maximum: int | None

    def refusal(self) -> tuple[str, str] | None:
        """The broken rule's key and a sentence; None if some value may do."""
        low, high = self.possible
        if self.minimum is not None and high < self.minimum:
            return self.rule, f"at least {self.minimum:,} asked, at most {high:,} possible"
        if self.maximum is not None and low > self.maximum:
            return self.rule, f"at most {self.maximum:,} asked, at least {low:,} needed"
        return None


def impossible(space: Space) -> str | None:
    """Why no architecture can meet the constraints, or None if bounds do not rule it out."""
    refusals: list[tuple[str, str]] = []
    for width in space.width:
        bounds = {name: found for name in space.menu.entries if (found := _bounds(space, name, width))}
        for depth, groups in _stacks(space):
            usable = [(count, [bounds[n] for n in names if n in bounds]) for count, names in groups if count]
            if not all(entries for _, entries in usable):
                refusals.append(("mixers", f"no entry fits width {width}"))
                continue
            refused = [d.refusal() for d in _demands(space, width, depth, usable)]
            if not any(refused):
                return None
            refusals.append(next(filter(None, refused)))
    rule, _ = Counter(rule for rule, _ in refusals).most_common(1)[0]
    text = next(text for found, text in refusals if found == rule)
    return f"`{rule}` cannot be met: {text}"


def _bounds(space: Space, name: str, width: int) -> Bounds | None:
    mixers = [
        space.menu.mixer(name, width, options)
        for options in space.menu.combinations([name])
        if not space.menu.problem(name, width, options)
    ]
    if not mixers:
        return None
    limits = space.constraints.state_bytes
    states = [mixer_state(mixer, limits.context, limits.element_bytes) if limits else 0 for mixer in mixers]
    weights = [feed_forward.mixer_parameters(mixer, width) for mixer in mixers]
    layer = Layer(mixer=mixers[0], feed_forward=1)
    full = cost.full_layers(Architecture(width=width, layers=(layer,))) > 0
    return Bounds(full, (min(states), max(states)), (min(weights), max(weights)))


def _stacks(space: Space) -> Iterator[tuple[int, list[tuple[int, tuple[str, ...]]]]]:
    """Depths, and how many layers choose among which entries."""
    pattern = space.layers.pattern
    for depth in space.depth:
        if space.free:
            yield depth, [(depth, space.free)]
        for ratio in pattern.ratio if pattern else ():
            full = placement.full_count(ratio, depth)
            yield depth, [(depth - full, space.roles[0]), (full, space.roles[1])]


def _demands(space: Space, width: int, depth: int, groups: list[tuple[int, list[Bounds]]]) -> Iterator[Demand]:
    rules = space.constraints
    full = rules.full_layers
    if full is not None:
        least = sum(count for count, entries in groups if all(entry.full for entry in entries))
        most = sum(count for count, entries in groups if any(entry.full for entry in entries))
        yield Demand("constraints.full_layers", (least, most), full.minimum, full.maximum)
    if rules.state_bytes is not None:
        forced = (full.minimum or 0) if full is not None else 0
        possible = (_least_state(groups, forced), sum(n * max(e.state[1] for e in es) for n, es in groups))
        yield Demand("constraints.state_bytes", possible, rules.state_bytes.minimum, rules.state_bytes.maximum)
    possible = _parameters(space, width, depth, groups)
    if rules.parameters is not None:
        yield Demand("constraints.parameters", possible, rules.parameters.minimum, rules.parameters.maximum)
    match = space.feed_forward.parameters
    if match is not None:
        slack = int(match.tolerance * space.target)
        yield Demand("feed_forward.parameters", possible, space.target - slack, space.target + slack)


def _least_state(groups: list[tuple[int, list[Bounds]]], forced: int) -> int:
    """Smallest state, given that at least `forced` layers of a free stack are full."""
    if len(groups) > 1:
        return sum(count * min(entry.state[0] for entry in entries) for count, entries in groups)
    count, entries = groups[0]
    fulls = [entry.state[0] for entry in entries if entry.full]
    forced = min(forced, count) if fulls else 0
    return forced * min(fulls, default=0) + (count - forced) * min(entry.state[0] for entry in entries)


def _parameters(space: Space, width: int, depth: int, groups: list[tuple[int, list[Bounds]]]) -> Range:
    outside, slope = feed_forward.outside_mixers(width, depth)
    if space.feed_forward.parameters is not None:
        low, high = feed_forward.limits(space, width)
    else:
        inner = [feed_forward.inner_width(space, width, (), choice) for choice in space.feed_forwards]
        # A feed-forward of 0 loses its norm too; one unit less is a safe bound for that.
        low, high = min(inner) - 1, max(inner)
    least = sum(count * min(entry.parameters[0] for entry in entries) for count, entries in groups)
    most = sum(count * max(entry.parameters[1] for entry in entries) for count, entries in groups)
    return outside + low * slope + least, outside + high * slope + most
