"""The architectures that every search is compared with, all with the same parameters."""

from hybridsearch.errors import Infeasible
from hybridsearch.search_spaces import feed_forward, placement
from hybridsearch.search_spaces.menu import LINEAR_KINDS
from hybridsearch.search_spaces.space import Space
from hybridsearch.spec import cost
from hybridsearch.spec.architecture import Architecture, Layer
from hybridsearch.spec.combinators import Mixer

DEFAULT_TOLERANCE = 0.02


def controls(space: Space) -> dict[str, Architecture]:
    """Full attention, the first linear mixer alone, and both at a uniform 3:1, of the reference's size.

    The first `full` entry and the first linear entry of the menu are used (a sliding window where there is no linear
    one), with the first of their options that fit. At 3:1 every fourth layer is full; a depth below 4 has one full
    layer, the last. Controls need not lie in the space. Where the space fixes the feed-forwards, a control keeps
    the reference's if that leaves it as large as the reference; otherwise a solved one brings it there.

    Raises:
        Infeasible: a control cannot be given the reference's parameters.
    """
    _, depth = space.reference_size
    full = feed_forward.reference_mixer(space, "full")
    kinds = LINEAR_KINDS if feed_forward.fitting(space, *LINEAR_KINDS) else ("sliding",)
    linear = feed_forward.reference_mixer(space, *kinds)
    hybrid = placement.positions("3:1", "uniform", depth)
    stacks = {
        "full": [full] * depth,
        "linear": [linear] * depth,
        "three_to_one": [full if layer in hybrid else linear for layer in range(depth)],
    }
    return {name: _matched(space, name, mixers) for name, mixers in stacks.items()}


def _matched(space: Space, name: str, mixers: list[Mixer]) -> Architecture:
    width, _ = space.reference_size
    rule = space.feed_forward
    tolerance = rule.parameters.tolerance if rule.parameters else DEFAULT_TOLERANCE
    inner = feed_forward.inner_width(space, width, mixers, space.feed_forwards[0])
    if rule.parameters is not None or _gap(space, _stack(space, width, mixers, inner)) > tolerance:
        inner = feed_forward.solve(width, mixers, space.target, rule.multiple, tolerance)
    architecture = _stack(space, width, mixers, inner)
    gap = _gap(space, architecture)
    if gap > tolerance:
        raise Infeasible(
            f"the control {name!r} misses {space.target:,} parameters by {gap:.1%} at width {width} and depth "
            f"{len(mixers)}, at most {tolerance:.1%} allowed; change `reference` or `feed_forward`"
        )
    return architecture


def _stack(space: Space, width: int, mixers: list[Mixer], inner: int) -> Architecture:
    layers = tuple(Layer(mixer=mixer, feed_forward=inner) for mixer in mixers)
    return Architecture(width=width, layers=layers, tied_embeddings=space.tied_embeddings)


def _gap(space: Space, architecture: Architecture) -> float:
    """How far the parameters are from the reference's, relative to them."""
    return abs(cost.parameters(architecture) - space.target) / space.target
