"""Small steps from one plan to another: what mutation and repair are made of.

A step returns a changed plan, or None where it does not apply. It keeps the space's choices; layer rules and
constraints are judged by its caller.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from random import Random
from typing import TYPE_CHECKING, TypeVar

from hybridsearch.search_spaces import patterns
from hybridsearch.search_spaces.plan import Plan

if TYPE_CHECKING:
    from hybridsearch.search_spaces.space import Space

T = TypeVar("T")
Step = Callable[["Space", Plan, Random], Plan | None]


def swap_mixer(space: Space, plan: Plan, rng: Random) -> Plan | None:
    """Give one layer another entry of the free choice."""
    layer = rng.randrange(plan.depth)
    name = _other(space.free, plan.layers[layer], rng)
    return None if name is None else _with_layer(plan, layer, name)


def move_layer(space: Space, plan: Plan, rng: Random) -> Plan | None:
    """Exchange a full layer (or, without one, any layer) and a layer of another entry."""
    full = [layer for layer, name in enumerate(plan.layers) if space.mixers[name].kind == "full"]
    source = rng.choice(full or range(plan.depth))
    targets = [layer for layer, name in enumerate(plan.layers) if name != plan.layers[source]]
    if not targets:
        return None
    target = rng.choice(targets)
    return _with_layer(_with_layer(plan, source, plan.layers[target]), target, plan.layers[source])


def split_or_merge(space: Space, plan: Plan, rng: Random) -> Plan | None:
    """Replace a layer by a head split that holds its mixer, or a split by one of its parts."""
    return _regroup(space, plan, rng, "head_split")


def reroute(space: Space, plan: Plan, rng: Random) -> Plan | None:
    """Replace a linear layer by token routing over it, or a routed layer by full attention or its linear part."""
    return _regroup(space, plan, rng, "token_route")


def add_or_remove_layers(space: Space, plan: Plan, rng: Random) -> Plan | None:
    """Go to the next choice of depth: insert layers (half of them repeat their neighbour) or drop some, anywhere.

    A pattern is laid out anew.
    """
    depth = _neighbour(space.depth, plan.depth, rng)
    if depth is None:
        return None
    pattern = patterns.recognise(space, plan.layers)
    if pattern is not None and (not space.free or rng.random() < 0.5):
        return replace(plan, layers=patterns.lay(pattern, depth))
    layers = list(plan.layers)
    while len(layers) < depth:
        layer = rng.randrange(len(layers))
        layers.insert(layer, rng.choice((layers[layer], rng.choice(space.free or layers))))
    while len(layers) > depth:
        layers.pop(rng.randrange(len(layers)))
    return replace(plan, layers=tuple(layers))


def change_pattern(space: Space, plan: Plan, rng: Random) -> Plan | None:
    """Lay the layers by another ratio, placement or mixer; layers of no pattern get a pattern of their depth."""
    rule = space.layers.pattern
    if rule is None:
        return None
    pattern = patterns.recognise(space, plan.layers)
    if pattern is None:
        return replace(plan, layers=patterns.lay(patterns.draw(space, plan.depth, rng), plan.depth))
    choices: dict[str, Sequence[str]] = {
        "ratio": rule.ratio,
        "placement": rule.placement,
        "linear": space.roles[0],
        "full": space.roles[1],
    }
    key = rng.choice(tuple(choices))
    # A scattered placement has many position sets, so drawing another one counts as a change of placement.
    again = key == "placement" and pattern.placement == "scattered" and rng.random() < 0.5
    value = "scattered" if again else _other(choices[key], getattr(pattern, key), rng)
    if value is None:
        return None
    scatter = rng.randrange(patterns.scatters(pattern.ratio, plan.depth))
    changed = replace(pattern, scatter=scatter if value == "scattered" else pattern.scatter, **{key: value})
    return replace(plan, layers=patterns.lay(changed, plan.depth))


def exchange_entries(space: Space, plan: Plan, rng: Random) -> Plan | None:
    """Give all layers of one entry another entry, and the layers of that one the first."""
    old = rng.choice(sorted(set(plan.layers)))
    new = _other(space.free, old, rng)
    if new is None:
        return None
    names = {old: new, new: old}
    return replace(plan, layers=tuple(names.get(name, name) for name in plan.layers))


def change_option(space: Space, plan: Plan, rng: Random) -> Plan | None:
    """Choose another value of an option that a layer uses."""
    keys = space.menu.keys(plan.layers, plan.options)
    if not keys:
        return None
    key = rng.choice(keys)
    value = rng.choice([value for value in space.menu.choices[key] if value != plan.options[key]])
    return replace(plan, options={**plan.options, key: value})


def widen_or_narrow(space: Space, plan: Plan, rng: Random) -> Plan | None:
    """Go to the next choice of the residual width."""
    width = _neighbour(space.width, plan.width, rng)
    return None if width is None else replace(plan, width=width)


def change_feed_forward(space: Space, plan: Plan, rng: Random) -> Plan | None:
    """Choose another fixed feed-forward."""
    choice = _other(space.feed_forwards, plan.feed_forward, rng)
    return None if choice is None else replace(plan, feed_forward=choice)


STEPS: Mapping[str, Step] = {
    step.__name__: step
    for step in (
        swap_mixer,
        move_layer,
        split_or_merge,
        reroute,
        add_or_remove_layers,
        change_pattern,
        exchange_entries,
        change_option,
        widen_or_narrow,
        change_feed_forward,
    )
}


def small_step(space: Space, plan: Plan, rng: Random) -> Plan | None:
    """One step of a kind chosen at random; options of entries that come in by it are drawn."""
    changed = rng.choice(tuple(STEPS.values()))(space, plan, rng)
    if changed is None or changed.layers == plan.layers:
        return changed
    known = space.menu.keys(plan.layers, plan.options)
    new = [key for key in space.menu.keys(changed.layers, changed.options) if key not in known]
    drawn = {key: rng.choice(space.menu.choices[key]) for key in new}
    return replace(changed, options={**changed.options, **drawn})


def _regroup(space: Space, plan: Plan, rng: Random, kind: str) -> Plan | None:
    """Replace a layer by an entry of `kind` made of it, or the other way round."""
    changes: list[tuple[int, str]] = []
    for layer, name in enumerate(plan.layers):
        for other in space.free:
            made, part = (name, other) if space.mixers[name].kind == kind else (other, name)
            if space.mixers[made].kind != kind or made == part:
                continue
            related = part in space.menu.entries[made].parts
            if related or (kind == "token_route" and space.mixers[part].kind == "full"):
                changes.append((layer, other))
    return _with_layer(plan, *rng.choice(changes)) if changes else None


def _with_layer(plan: Plan, layer: int, name: str) -> Plan:
    return replace(plan, layers=(*plan.layers[:layer], name, *plan.layers[layer + 1 :]))


def _other(choices: Sequence[T], current: T, rng: Random) -> T | None:
    others = [choice for choice in choices if choice != current]
    return rng.choice(others) if others else None


def _neighbour(choices: Sequence[int], current: int, rng: Random) -> int | None:
    """The next smaller or the next larger choice."""
    below = [choice for choice in choices if choice < current]
    above = [choice for choice in choices if choice > current]
    nearest = ([max(below)] if below else []) + ([min(above)] if above else [])
    return rng.choice(nearest) if nearest else None
