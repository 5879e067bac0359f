"""One architecture of a space from two: by layers, or by the choices of a pattern."""

from collections.abc import Sequence
from random import Random
from typing import TypeVar

from hybridsearch.search_spaces import patterns, repair, sampling
from hybridsearch.search_spaces.menu import Value
from hybridsearch.search_spaces.plan import Plan, read
from hybridsearch.search_spaces.rules import judge
from hybridsearch.search_spaces.space import Space
from hybridsearch.spec.architecture import Architecture

T = TypeVar("T")
TRIES = 4


def cross(space: Space, a: Architecture, b: Architecture, rng: Random) -> Architecture:
    """A child of two parents, which may differ in depth and width; if a few tries allow it, equal to neither.

    Raises:
        InvalidArchitecture: a mixer of a parent is not on the menu.
        Infeasible: no architecture meets the constraints.
    """
    parents = read(space, a), read(space, b)
    known = [judge(space, parent).architecture for parent in parents]
    child: Architecture | None = None
    for _ in range(TRIES):
        verdict = repair.repair(space, _mixed(space, *parents, rng), rng)
        if verdict.architecture is None or verdict.faults:
            continue
        child = verdict.architecture
        if child not in known:
            break
    return sampling.sample(space, rng) if child is None else child


def _mixed(space: Space, a: Plan, b: Plan, rng: Random) -> Plan:
    depth = rng.choice((a.depth, b.depth))
    layers = _mixed_layers(space, a, b, depth, rng)
    options: dict[str, Value] = {}
    used_by_a, used_by_b = (set(space.menu.keys(plan.layers, plan.options)) for plan in (a, b))
    for key in space.menu.choices:
        only_one = (key in used_by_a) != (key in used_by_b)
        donor = (a if key in used_by_a else b) if only_one else rng.choice((a, b))
        options[key] = donor.options[key]
    return Plan(rng.choice((a, b)).width, layers, options, rng.choice((a, b)).feed_forward)


def _mixed_layers(space: Space, a: Plan, b: Plan, depth: int, rng: Random) -> tuple[str, ...]:
    p, q = patterns.recognise(space, a.layers), patterns.recognise(space, b.layers)
    if p is not None and q is not None and (not space.free or rng.random() < 0.5):
        return patterns.lay(_mixed_patterns(p, q, rng), depth)
    if rng.random() < 0.5:
        a, b = b, a
    first, second = _stretched(a.layers, depth), _stretched(b.layers, depth)
    if rng.random() < 0.5:
        cut = rng.randrange(depth + 1)
        return (*first[:cut], *second[cut:])
    return tuple(rng.choice(pair) for pair in zip(first, second, strict=True))


def _mixed_patterns(p: patterns.Pattern, q: patterns.Pattern, rng: Random) -> patterns.Pattern:
    place = rng.choice((p, q))
    return patterns.Pattern(
        ratio=rng.choice((p, q)).ratio,
        placement=place.placement,
        linear=rng.choice((p, q)).linear,
        full=rng.choice((p, q)).full,
        scatter=place.scatter,
    )


def _stretched(layers: Sequence[T], depth: int) -> tuple[T, ...]:
    """The layers at `depth` places, each the one at the same relative height."""
    return tuple(layers[(2 * place + 1) * len(layers) // (2 * depth)] for place in range(depth))
