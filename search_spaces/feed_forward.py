"""The inner width of the feed-forwards: fixed, or solved so that parameters match those of the reference."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from typing import TYPE_CHECKING

from hybridsearch.errors import InvalidArchitecture
from hybridsearch.spec import cost
from hybridsearch.spec.architecture import Architecture, Layer
from hybridsearch.spec.combinators import Mixer
from hybridsearch.spec.mixers import FullAttention

if TYPE_CHECKING:
    from hybridsearch.search_spaces.space import Space


def inner_width(space: Space, width: int, mixers: Sequence[Mixer], choice: float | None) -> int:
    """The feed-forward width of every layer of a candidate; a solved one is clipped to the space's range."""
    rule = space.feed_forward
    if choice is not None:
        return int(choice) if rule.width else rounded(choice * width, rule.multiple)
    assert rule.parameters is not None
    lowest, highest = limits(space, width)
    return solve(width, mixers, space.target, rule.multiple, rule.parameters.tolerance, lowest, highest)


def choice_of(space: Space, architecture: Architecture) -> float | None:
    """The choice that gives this architecture its feed-forwards, or the first one."""
    choices, rule = space.feed_forwards, space.feed_forward
    for choice in choices:
        if choice is not None and inner_width(space, architecture.width, (), choice) == (
            architecture.layers[0].feed_forward
        ):
            return choice
    return None if rule.parameters else choices[0]


def limits(space: Space, width: int) -> tuple[int, int]:
    """Smallest and largest solved feed-forward at a width."""
    rule = space.feed_forward
    return max(1, round(rule.minimum * width)), max(1, int(rule.maximum * width))


def rounded(value: float, multiple: int) -> int:
    """The nearest multiple, but not 0."""
    return max(1, round(value / multiple)) * multiple


def solve(
    width: int,
    mixers: Sequence[Mixer],
    target: int,
    multiple: int,
    tolerance: float,
    lowest: int = 1,
    highest: int | None = None,
) -> int:
    """The feed-forward width that brings the parameters nearest to `target`.

    It is a multiple of `multiple`, unless rounding alone would use up more than half of the tolerance.
    """
    outside, slope = outside_mixers(width, len(mixers))
    exact = (target - outside - sum(mixer_parameters(mixer, width) for mixer in mixers)) / slope
    coarse = rounded(exact, multiple)
    inner = coarse if abs(coarse - exact) * slope <= tolerance / 2 * target else round(exact)
    inner = max(lowest, inner)
    return inner if highest is None else min(highest, inner)


@lru_cache(maxsize=65536)
def mixer_parameters(mixer: Mixer, width: int) -> int:
    """Weights of one mixer."""
    return mixer.parameters(width)


@lru_cache(maxsize=4096)
def outside_mixers(width: int, depth: int) -> tuple[int, int]:
    """Parameters outside the mixers at feed-forward width 0+, and how many each unit of that width adds."""
    probe = FullAttention(heads=1, head_dim=2)
    one, two = (
        cost.parameters(Architecture(width=width, layers=(Layer(mixer=probe, feed_forward=inner),) * depth))
        for inner in (1, 2)
    )
    return one - (two - one) - depth * probe.parameters(width), two - one


def target(space: Space) -> int:
    """Parameters, without the embedding, that every candidate of the space is matched to.

    Raises:
        InvalidArchitecture: the reference cannot be built.
    """
    rule = space.feed_forward.parameters
    if rule is not None and rule.match != "full":
        return rule.match
    width, depth = space.reference_size
    mixer = reference_mixer(space, "full")
    if rule is None:
        inner = inner_width(space, width, (), space.feed_forwards[0])
    else:
        inner = rounded(space.reference.ratio * width, space.feed_forward.multiple)
    return cost.parameters(Architecture(width=width, layers=(Layer(mixer=mixer, feed_forward=inner),) * depth))


def reference_mixer(space: Space, *kinds: str) -> Mixer:
    """The menu's first entry of one of the kinds, with the first options that fit the reference width.

    Raises:
        InvalidArchitecture: there is none.
    """
    width, _ = space.reference_size
    for name in fitting(space, *kinds):
        options = space.menu.valid(name, width)
        assert options is not None
        return space.menu.mixer(name, width, options)
    raise InvalidArchitecture(f"no {' or '.join(kinds)} entry of the menu fits the reference width {width}")


def fitting(space: Space, *kinds: str) -> list[str]:
    """Entries of these kinds that have options for the reference width, in the menu's order."""
    width, _ = space.reference_size
    entries = (entry for entry in space.menu.entries.values() if entry.kind in kinds)
    return [entry.name for entry in entries if space.menu.valid(entry.name, width) is not None]
