"""How many architectures a space holds: listed one by one where they are few, else counted from its choices."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from itertools import combinations, product
from typing import TYPE_CHECKING

from hybridsearch.search_spaces import placement
from hybridsearch.search_spaces.plan import Plan
from hybridsearch.search_spaces.rules import judge
from hybridsearch.spec.architecture import Architecture
from hybridsearch.spec.canonical import canonical_json

if TYPE_CHECKING:
    from hybridsearch.search_spaces.space import Space

MOST_LISTED = 4096


@dataclass(frozen=True, slots=True)
class Size:
    """Number of architectures."""

    architectures: int
    exact: bool
    """False: an upper bound, since constraints and equal choices are not taken off."""


def count(space: Space) -> Size:
    """The size of a space; exact up to `MOST_LISTED` plans."""
    listed = space.listing
    return Size(upper_bound(space), False) if listed is None else Size(len(listed), True)


def listing(space: Space) -> tuple[Architecture, ...] | None:
    """Every architecture of the space, each once; None if it has more than `MOST_LISTED` plans."""
    if upper_bound(space) > MOST_LISTED:
        return None
    return tuple(architectures(space))


def architectures(space: Space) -> Iterator[Architecture]:
    """Every architecture of the space, each once."""
    seen: set[str] = set()
    for plan in plans(space):
        verdict = judge(space, plan)
        if verdict.architecture is None or verdict.faults:
            continue
        text = canonical_json(verdict.architecture)
        if text not in seen:
            seen.add(text)
            yield verdict.architecture


def plans(space: Space) -> Iterator[Plan]:
    """Every plan that keeps the choices and the layer rule, with each choice of the options that it uses."""
    for width, choice, depth in product(space.width, space.feed_forwards, space.depth):
        for layers in _stacks(space, depth):
            for options in space.menu.combinations(sorted(set(layers))):
                yield Plan(width, layers, {**space.menu.first, **options}, choice)


def upper_bound(space: Space) -> int:
    """Plans of the space; constraints are not taken off."""
    stacks = _free_stacks(space) + sum(_pattern_stacks(space, depth) for depth in space.depth)
    return len(space.width) * len(space.feed_forwards) * stacks


def _stacks(space: Space, depth: int) -> Iterator[tuple[str, ...]]:
    free = set(space.free)
    if free:
        yield from product(space.free, repeat=depth)
    laid = {layers: None for layers in _laid(space, depth) if not set(layers) <= free}
    yield from laid


def _laid(space: Space, depth: int) -> Iterator[tuple[str, ...]]:
    for linear, full in product(*space.roles):
        for positions in _positions(space, depth):
            yield tuple(full if layer in positions else linear for layer in range(depth))


def _positions(space: Space, depth: int) -> set[tuple[int, ...]]:
    """Sets of full layers that the pattern rule allows."""
    rule = space.layers.pattern
    found: set[tuple[int, ...]] = set()
    for ratio, place in product(rule.ratio, rule.placement) if rule else ():
        if place == "scattered":
            found.update(placement.subsets(depth, placement.full_count(ratio, depth)))
        else:
            found.add(placement.positions(ratio, place, depth))
    return found


def _free_stacks(space: Space) -> int:
    """Free stacks times the choices of the options they use: over all sets of entries, stacks that use exactly it."""
    total = 0
    for number in range(1, min(max(space.depth), len(space.free)) + 1):
        stacks = sum(_onto(depth, number) for depth in space.depth)
        total += stacks * sum(space.menu.combination_count(names) for names in combinations(space.free, number))
    return total


def _pattern_stacks(space: Space, depth: int) -> int:
    """The same for patterns whose entries are not all free."""
    free, total = set(space.free), 0
    counted = _position_counts(space, depth)
    for linear, full in product(*space.roles):
        for number, sets in counted.items():
            names = (full,) if number == depth else (linear,) if number == 0 else (linear, full)
            alone = len(names) > 1 or (linear if full in names else full) == _first_partner(space, names[0])
            if alone and not set(names) <= free:
                total += sets * space.menu.combination_count(names)
    return total


def _first_partner(space: Space, name: str) -> str:
    """So that a stack of one entry is counted with one partner only."""
    linears, fulls = space.roles
    return fulls[0] if name in linears else linears[0]


def _position_counts(space: Space, depth: int) -> dict[int, int]:
    """Sets of full layers that the pattern rule allows, by their size."""
    rule = space.layers.pattern
    fixed: dict[int, set[tuple[int, ...]]] = {}
    counts: dict[int, int] = {}
    for ratio, place in product(rule.ratio, rule.placement) if rule else ():
        number = placement.full_count(ratio, depth)
        if place == "scattered":
            counts[number] = math.comb(depth, number)
        else:
            fixed.setdefault(number, set()).add(placement.positions(ratio, place, depth))
    return {**{number: len(sets) for number, sets in fixed.items()}, **counts}


@lru_cache(maxsize=1024)
def _onto(depth: int, number: int) -> int:
    """Stacks of `depth` layers that use all of `number` entries."""
    return sum((-1) ** k * math.comb(number, k) * (number - k) ** depth for k in range(number + 1))
