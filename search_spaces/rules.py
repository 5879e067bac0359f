"""What a plan must keep to lie in its space, and by how much it misses it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING

from hybridsearch.errors import InvalidArchitecture
from hybridsearch.search_spaces import feed_forward, patterns
from hybridsearch.search_spaces.plan import Plan, express, read
from hybridsearch.spec import cost
from hybridsearch.spec.architecture import Architecture
from hybridsearch.spec.canonical import canonical_json
from hybridsearch.spec.combinators import Mixer

if TYPE_CHECKING:
    from hybridsearch.search_spaces.space import Limits, Space


@dataclass(frozen=True, slots=True)
class Fault:
    """One rule that a plan breaks."""

    rule: str
    """Key of the rule in the space, e.g. `constraints.full_layers.minimum`."""
    excess: float
    """How far it is missed, relative to the limit; 0 < excess."""
    text: str


@dataclass(frozen=True, slots=True)
class Verdict:
    """A plan, the architecture it stands for (None if its mixers cannot be made), and what it breaks."""

    plan: Plan
    architecture: Architecture | None
    faults: tuple[Fault, ...]

    @property
    def excess(self) -> float:
        """Sum over the faults; 0 for a plan of the space."""
        return sum(fault.excess for fault in self.faults)


def judge(space: Space, plan: Plan) -> Verdict:
    """Express a plan and list the rules it breaks."""
    broken = [fault for rule in _PLAN_RULES for fault in rule(space, plan)]
    try:
        architecture = express(space, plan)
    except InvalidArchitecture as error:
        return Verdict(plan, None, (*broken, _unmade(space, plan, error)))
    counted = [fault for rule in _COUNTED_RULES for fault in rule(space, plan, architecture)]
    return Verdict(plan, architecture, (*broken, *counted))


def violations(space: Space, architecture: Architecture) -> list[str]:
    """Everything that keeps an architecture out of the space, one sentence each; empty if it lies in it."""
    try:
        plan = read(space, architecture)
    except InvalidArchitecture as error:
        return [str(error)]
    verdict = judge(space, plan)
    texts = [fault.text for fault in verdict.faults]
    if not texts and verdict.architecture and canonical_json(verdict.architecture) != canonical_json(architecture):
        texts.append(_other_sizes(verdict.architecture, architecture))
    return texts


def in_space(space: Space, architecture: Architecture) -> bool:
    """Whether the architecture lies in the space."""
    return not violations(space, architecture)


@lru_cache(maxsize=65536)
def mixer_state(mixer: Mixer, context: int, element_bytes: int) -> int:
    """Decode memory of one mixer, in bytes."""
    return mixer.state_bytes(context, element_bytes)


def _unmade(space: Space, plan: Plan, error: InvalidArchitecture) -> Fault:
    bad = sum(space.menu.problem(name, plan.width, plan.options) is not None for name in plan.layers)
    rule = str(error).split(":", 1)[0]
    # Weighs more than any counted fault, so that repair first reaches plans that can be counted.
    return Fault(rule, 10.0 + bad, str(error))


def _other_sizes(expected: Architecture, found: Architecture) -> str:
    if expected.tied_embeddings != found.tied_embeddings:
        return f"tied_embeddings is {found.tied_embeddings}, in the space {expected.tied_embeddings}"
    widths = sorted({layer.feed_forward for layer in found.layers})
    return f"feed-forward widths {widths} differ from the space's {expected.layers[0].feed_forward} for these mixers"


def _sizes(space: Space, plan: Plan) -> list[Fault]:
    faults = []
    if plan.width not in space.width:
        faults.append(Fault("width", 1.0, f"width {plan.width} is not one of {list(space.width)}"))
    if plan.depth not in space.depth:
        faults.append(Fault("depth", 1.0, f"depth {plan.depth} is not one of {list(space.depth)}"))
    return faults


def _layers(space: Space, plan: Plan) -> list[Fault]:
    if set(plan.layers) <= set(space.free) or patterns.recognise(space, plan.layers) is not None:
        return []
    outside = sum(name not in space.free for name in plan.layers)
    rule = "layers.free" if space.free else "layers.pattern"
    return [Fault(rule, 1.0 + outside / plan.depth, f"layers {'.'.join(plan.layers)} follow no rule of the space")]


def _ends(space: Space, plan: Plan) -> list[Fault]:
    faults = []
    for where, layer, names in (("first", 0, space.layers.not_first), ("last", -1, space.layers.not_last)):
        if plan.layers[layer] in names:
            faults.append(Fault(f"layers.not_{where}", 0.1, f"the {where} layer is {plan.layers[layer]}"))
    return faults


def _neighbours(space: Space, plan: Plan) -> list[Fault]:
    apart = space.layers.not_adjacent
    pairs = sum(a == b and a in apart for a, b in zip(plan.layers, plan.layers[1:], strict=False))
    rule = "layers.not_adjacent"
    return [Fault(rule, pairs / plan.depth, f"{pairs} pairs of adjacent layers of {', '.join(apart)}")] if pairs else []


def _outside(rule: str, limits: Limits, value: int, text: str) -> list[Fault]:
    if limits.minimum is not None and value < limits.minimum:
        gap = (limits.minimum - value) / limits.minimum
        return [Fault(f"{rule}.minimum", gap, f"{text}, at least {limits.minimum:,} needed")]
    if limits.maximum is not None and value > limits.maximum:
        gap = (value - limits.maximum) / max(1, limits.maximum)
        return [Fault(f"{rule}.maximum", gap, f"{text}, at most {limits.maximum:,} allowed")]
    return []


def _full_layers(space: Space, plan: Plan, architecture: Architecture) -> list[Fault]:
    limits = space.constraints.full_layers
    if limits is None:
        return []
    count = cost.full_layers(architecture)
    return _outside("constraints.full_layers", limits, count, f"{count} full layers")


def _state(space: Space, plan: Plan, architecture: Architecture) -> list[Fault]:
    limits = space.constraints.state_bytes
    if limits is None:
        return []
    held = sum(mixer_state(layer.mixer, limits.context, limits.element_bytes) for layer in architecture.layers)
    text = f"{held:,} bytes of state at {limits.context} tokens"
    return _outside("constraints.state_bytes", limits, held, text)


def parameters(architecture: Architecture) -> int:
    """The same as `cost.parameters` without a vocabulary, with the mixers' counts remembered."""
    width, inner = architecture.width, architecture.layers[0].feed_forward
    if inner == 0:
        return cost.parameters(architecture)
    outside, slope = feed_forward.outside_mixers(width, len(architecture.layers))
    mixers = sum(feed_forward.mixer_parameters(layer.mixer, width) for layer in architecture.layers)
    return outside + inner * slope + mixers


def _parameters(space: Space, plan: Plan, architecture: Architecture) -> list[Fault]:
    limits = space.constraints.parameters
    if limits is None:
        return []
    count = parameters(architecture)
    return _outside("constraints.parameters", limits, count, f"{count:,} parameters")


def _match(space: Space, plan: Plan, architecture: Architecture) -> list[Fault]:
    match = space.feed_forward.parameters
    if match is None:
        return []
    count = parameters(architecture)
    gap = abs(count - space.target) / space.target
    if gap <= match.tolerance:
        return []
    inner = architecture.layers[0].feed_forward
    text = (
        f"{count:,} parameters with feed-forwards of {inner} miss {space.target:,} "
        f"by {gap:.1%}, at most {match.tolerance:.1%} allowed"
    )
    return [Fault("feed_forward.parameters", gap - match.tolerance, text)]


def _member(space: Space, plan: Plan, architecture: Architecture) -> list[Fault]:
    if space.members is None or architecture in space.members:
        return []
    return [
        Fault("members", 1.0, f"layers {'.'.join(plan.layers)} are none of the {len(space.members)} that are known")
    ]


_PLAN_RULES: tuple[Callable[[Space, Plan], list[Fault]], ...] = (_sizes, _layers, _ends, _neighbours)
_COUNTED_RULES: tuple[Callable[[Space, Plan, Architecture], list[Fault]], ...] = (
    _full_layers,
    _state,
    _parameters,
    _match,
    _member,
)
