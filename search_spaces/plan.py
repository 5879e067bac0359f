"""A plan: the choices of a space that an architecture stands for. Samplers change plans; the store keeps architectures.

`express` turns a plan into an architecture, `read` finds the plan of an architecture.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from hybridsearch.errors import InvalidArchitecture
from hybridsearch.search_spaces import feed_forward
from hybridsearch.search_spaces.menu import Options, Value
from hybridsearch.spec.architecture import Architecture, Layer
from hybridsearch.spec.combinators import Mixer

if TYPE_CHECKING:
    from hybridsearch.search_spaces.space import Space

Found = tuple[str, dict[str, Value]]


@dataclass(frozen=True, slots=True)
class Plan:
    """One point of a space."""

    width: int
    layers: tuple[str, ...]
    """Menu entry of each layer."""
    options: Options
    """A value for every option of the menu that has a choice, whether or not a layer uses it."""
    feed_forward: float | None = None
    """The chosen width or ratio; None where it is solved."""

    @property
    def depth(self) -> int:
        """Number of layers."""
        return len(self.layers)


def express(space: Space, plan: Plan) -> Architecture:
    """The architecture of a plan, whether or not it keeps the space's rules and constraints.

    Raises:
        InvalidArchitecture: a mixer's options do not fit each other or the width.
    """
    mixers = [space.menu.mixer(name, plan.width, plan.options) for name in plan.layers]
    inner = feed_forward.inner_width(space, plan.width, mixers, plan.feed_forward)
    layers = tuple(Layer(mixer=mixer, feed_forward=inner) for mixer in mixers)
    return Architecture(width=plan.width, layers=layers, tied_embeddings=space.tied_embeddings)


def read(space: Space, architecture: Architecture) -> Plan:
    """The plan of an architecture whose mixers are on the menu; rules, sizes and constraints are not looked at.

    Raises:
        InvalidArchitecture: a mixer is not on the menu, or layers of one entry differ in an option.
    """
    mixers = [layer.mixer for layer in architecture.layers]
    candidates: dict[Mixer, list[Found]] = {}
    for index, mixer in enumerate(mixers):
        if mixer not in candidates:
            candidates[mixer] = _known(space, mixer, architecture.width)
        if not candidates[mixer]:
            raise InvalidArchitecture(f"layer {index}: its {mixer.kind} mixer is not one that the menu can make")
    agreed = _agree(list(candidates.values()), {})
    if agreed is None:
        raise InvalidArchitecture("layers of one menu entry differ; an option is chosen once per architecture")
    names = {mixer: name for mixer, (name, _) in zip(candidates, agreed, strict=True)}
    options = dict(space.menu.first)
    for _, chosen in agreed:
        options.update(chosen)
    choice = feed_forward.choice_of(space, architecture)
    return Plan(architecture.width, tuple(names[mixer] for mixer in mixers), options, choice)


def _known(space: Space, mixer: Mixer, width: int) -> list[Found]:
    """What makes this mixer; entries that layers may use come first."""
    layers = {*space.free, *space.roles[0], *space.roles[1]}
    return sorted(space.menu.find(mixer, width), key=lambda found: found[0] not in layers)


def _agree(candidates: list[list[Found]], settled: Options) -> list[Found] | None:
    """One of each list, such that all options agree."""
    if not candidates:
        return []
    for name, chosen in candidates[0]:
        if all(settled.get(key, value) == value for key, value in chosen.items()):
            rest = _agree(candidates[1:], {**settled, **chosen})
            if rest is not None:
                return [(name, chosen), *rest]
    return None
