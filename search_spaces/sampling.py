"""Architectures at random, always inside the space."""

from __future__ import annotations

from collections import Counter
from random import Random

from hybridsearch.errors import Infeasible
from hybridsearch.search_spaces import feasibility, patterns, repair
from hybridsearch.search_spaces.plan import Plan
from hybridsearch.search_spaces.rules import Verdict, judge
from hybridsearch.search_spaces.space import Space
from hybridsearch.spec.architecture import Architecture

DRAWS = 48
REPAIRS = 8


def sample(space: Space, rng: Random) -> Architecture:
    """An architecture of the space.

    Raises:
        Infeasible: no architecture meets the constraints, as far as bounds, draws and (in a small space) a complete
            listing show; the text names the constraint that refuses most.
    """
    if space.members is not None and space.listing:
        return rng.choice(space.listing)
    refused: list[Verdict] = []
    for _ in range(DRAWS):
        verdict = judge(space, draw(space, rng))
        if verdict.architecture is not None and not verdict.faults:
            return verdict.architecture
        refused.append(verdict)
    if (proof := feasibility.impossible(space)) is not None:
        raise Infeasible(f"no architecture of the space meets its constraints: {proof}; loosen it")
    for verdict in sorted(refused, key=lambda verdict: verdict.excess)[:REPAIRS]:
        repaired = repair.repair(space, verdict.plan, rng)
        if repaired.architecture is not None and not repaired.faults:
            return repaired.architecture
        refused.append(repaired)
    if (listed := space.listing) is not None:
        if listed:
            return rng.choice(listed)
        raise Infeasible(_explain(refused, "no architecture of the space meets its constraints"))
    raise Infeasible(_explain(refused, f"no architecture found that meets the constraints in {len(refused)} tries"))


def draw(space: Space, rng: Random) -> Plan:
    """A plan that keeps the space's choices and layer rule; constraints are not looked at.

    A freely chosen stack first draws how many entries it uses: uniform draws per layer would hardly ever give a stack
    of one or two mixers.
    """
    depth = rng.choice(space.depth)
    layers = draw_layers(space, depth, rng)
    options = {key: rng.choice(values) for key, values in space.menu.choices.items()}
    return Plan(rng.choice(space.width), layers, options, rng.choice(space.feed_forwards))


def draw_layers(space: Space, depth: int, rng: Random) -> tuple[str, ...]:
    """Layers that follow one of the space's rules."""
    if space.layers.pattern is not None and (not space.free or rng.random() < 0.5):
        return patterns.lay(patterns.draw(space, depth, rng), depth)
    palette = rng.sample(space.free, rng.randint(1, len(space.free)))
    return tuple(rng.choice(palette) for _ in range(depth))


def _explain(refused: list[Verdict], text: str) -> str:
    counts = Counter(fault.rule for verdict in refused for fault in verdict.faults)
    rule, times = counts.most_common(1)[0]
    nearest = min((f for v in refused for f in v.faults if f.rule == rule), key=lambda fault: fault.excess)
    return f"{text}: `{rule}` refused {times} of {len(refused)} (nearest: {nearest.text}); loosen it"
