"""Layers laid out by a ratio and a placement, and the pattern found again in layers."""

from __future__ import annotations

import math
from dataclasses import dataclass
from random import Random
from typing import TYPE_CHECKING

from hybridsearch.search_spaces import placement

if TYPE_CHECKING:
    from hybridsearch.search_spaces.space import Space


@dataclass(frozen=True, slots=True)
class Pattern:
    """Two mixers, and where the second stands."""

    ratio: str
    """linear:full."""
    placement: str
    linear: str
    full: str
    scatter: int = 0
    """Which of all position sets a `scattered` placement takes."""


def scatters(ratio: str, depth: int) -> int:
    """How many position sets a `scattered` placement has."""
    return math.comb(depth, placement.full_count(ratio, depth))


def full_positions(pattern: Pattern, depth: int) -> tuple[int, ...]:
    """Layers of the pattern's `full` entry."""
    if pattern.placement == "scattered":
        count = placement.full_count(pattern.ratio, depth)
        return placement.unrank(pattern.scatter % math.comb(depth, count), depth, count)
    return placement.positions(pattern.ratio, pattern.placement, depth)


def lay(pattern: Pattern, depth: int) -> tuple[str, ...]:
    """The entry of each layer."""
    full = full_positions(pattern, depth)
    return tuple(pattern.full if layer in full else pattern.linear for layer in range(depth))


def recognise(space: Space, layers: tuple[str, ...]) -> Pattern | None:
    """A pattern of the space that lays these layers, fixed placements before `scattered`; None if there is none."""
    rule = space.layers.pattern
    names = set(layers)
    if rule is None or len(names) > 2:
        return None
    linears, fulls = space.roles
    linear = next((name for name in linears if name in names), linears[0])
    full = next((name for name in fulls if name in names), fulls[0])
    if not names <= {linear, full}:
        return None
    positions = tuple(layer for layer, name in enumerate(layers) if name == full)
    for place in sorted(rule.placement, key=lambda place: place == "scattered"):
        for ratio in rule.ratio:
            pattern = Pattern(ratio, place, linear, full)
            if place == "scattered" and placement.full_count(ratio, len(layers)) == len(positions):
                return Pattern(ratio, place, linear, full, placement.rank(positions, len(layers)))
            if place != "scattered" and full_positions(pattern, len(layers)) == positions:
                return pattern
    return None


def draw(space: Space, depth: int, rng: Random) -> Pattern:
    """A pattern at random; the space must have a pattern rule."""
    rule = space.layers.pattern
    assert rule is not None
    linears, fulls = space.roles
    ratio, place = rng.choice(rule.ratio), rng.choice(rule.placement)
    scatter = rng.randrange(scatters(ratio, depth)) if place == "scattered" else 0
    return Pattern(ratio, place, rng.choice(linears), rng.choice(fulls), scatter)
