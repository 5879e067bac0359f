"""What experts would try first, and PriorBand's mixture of it with the best trials and with chance.

The prior is the hybrid that published studies settle on: linear layers with full ones evenly spaced at about 3:1, never
the first layer, and at least two of them (2507.06457, 2511.18890), each layer free to differ. How often it is drawn
follows PriorBand (2306.12370): chance gives way as higher rungs are reached, and between prior and incumbent those gain
that explain the best trials so far.
"""

import math
import random
from collections.abc import Iterator, Sequence

from hybridsearch.search.chain import chain_of, plan_of
from hybridsearch.search.history import Cohort, History, Observation
from hybridsearch.search.proposals import Draft, Proposal, Request, at_random, collect
from hybridsearch.search_spaces import placement, repair, sampling
from hybridsearch.search_spaces.plan import Plan
from hybridsearch.search_spaces.space import Space

ENOUGH = 6
"""Comparable trials before there is an incumbent."""
REDUCTION = 3.0
"""PriorBand's eta: a random draw has the chance 1 / (1 + eta^rung) at the highest rung that trials are compared at."""
TOP_SHARE = 1 / 3
"""Part of the comparable trials that prior and incumbent are judged by."""
KEPT = 0.8
"""Chance that a layer is drawn as the prior, or the incumbent, has it."""
LINEAR_PER_FULL = 3


def prior(history: History, request: Request) -> list[Proposal]:
    """Draw from the prior, around the incumbent, or at random, in PriorBand's shares."""
    return collect(history, request, "prior", _drafts)


def prior_draft(space: Space, rng: random.Random) -> Draft:
    """An architecture like what experts would try."""
    plan = sampling.draw(space, rng)
    attending, linear = _roles(space)
    if not attending or not linear:
        return at_random(space, rng)
    one, other = rng.choice(attending), rng.choice(linear)
    wanted = expected_positions(plan.depth)
    layers = tuple(one if layer in wanted else other for layer in range(plan.depth))
    return _near(space, Plan(plan.width, layers, plan.options, plan.feed_forward), rng)


def expected_positions(depth: int) -> tuple[int, ...]:
    """The prior's full layers: every fourth, at least two where there are three layers, never the first of several."""
    positions = placement.positions(f"{LINEAR_PER_FULL}:1", "uniform", depth)
    if len(positions) >= 2 or depth < 3:
        return positions
    return (depth // 2, depth - 1)


def shares(rung: int, prior_score: float, incumbent_score: float) -> tuple[float, float, float]:
    """PriorBand's chances of a random draw, the prior, and the incumbent."""
    chance = 1.0 / (1.0 + REDUCTION**rung)
    total = prior_score + incumbent_score
    of_prior = prior_score / total if total > 0 else 1.0
    return chance, (1.0 - chance) * of_prior, (1.0 - chance) * (1.0 - of_prior)


def _drafts(history: History, request: Request, rng: random.Random) -> Iterator[Draft]:
    cohort = history.cohort(ENOUGH)
    leaders = [] if cohort is None else _leaders(cohort, request.space)
    if cohort is None or not leaders:
        chance, of_prior, _ = shares(0, 1.0, 0.0)
    else:
        chance, of_prior, _ = shares(cohort.rung, *_scores(leaders, request.space))
    while True:
        drawn = rng.random()
        if drawn < chance:
            yield at_random(request.space, rng)
        elif drawn < chance + of_prior or not leaders:
            yield prior_draft(request.space, rng)
        else:
            # The front has no single best: any of its members is the incumbent of one draw.
            best, plan = rng.choice(leaders[: max(1, len(leaders) // 2)])
            draft = _near(request.space, plan, rng)
            yield Draft(draft.architecture, (best.trial,))


def _leaders(cohort: Cohort, space: Space) -> list[tuple[Observation, Plan]]:
    count = max(2, math.ceil(len(cohort.members) * TOP_SHARE))
    plans = [(o, plan_of(space, o.architecture)) for o in cohort.leaders(min(count, 60))]
    return [(o, plan) for o, plan in plans if plan is not None]


def _scores(leaders: Sequence[tuple[Observation, Plan]], space: Space) -> tuple[float, float]:
    """How well prior and incumbent explain the best trials, the best weighing most."""
    incumbent = leaders[0][1]
    prior_score = incumbent_score = 0.0
    for place, (_, plan) in enumerate(leaders):
        weight = len(leaders) - place
        full = expected_positions(plan.depth)
        attends = [bool(chain_of(space).attends[chain_of(space).entries.index(name)]) for name in plan.layers]
        prior_score += weight * _density([(layer in full) == found for layer, found in enumerate(attends)])
        same = [a == b for a, b in zip(plan.layers, incumbent.layers, strict=False)]
        missing = abs(plan.depth - incumbent.depth)
        incumbent_score += weight * _density([*same, *[False] * missing]) if place else 0.0
    return prior_score, incumbent_score


def _density(matches: Sequence[bool]) -> float:
    return math.prod(KEPT if match else 1.0 - KEPT for match in matches)


def _near(space: Space, plan: Plan, rng: random.Random) -> Draft:
    """The plan with some layers and options drawn again, brought back into the space."""
    fresh = sampling.draw(space, rng)
    palette = space.free or plan.layers
    layers = tuple(name if rng.random() < KEPT or not space.free else rng.choice(palette) for name in plan.layers)
    options = {key: value if rng.random() < KEPT else fresh.options[key] for key, value in plan.options.items()}
    verdict = repair.repair(space, Plan(plan.width, layers, options, plan.feed_forward), rng)
    if verdict.architecture is None or verdict.faults:
        return at_random(space, rng)
    return Draft(verdict.architecture)


def _roles(space: Space) -> tuple[list[str], list[str]]:
    """Entries that attend to the whole past, and those that do not."""
    chain = chain_of(space)
    usable = [n for n in chain.entries if n in space.free] or list(chain.entries)
    attends = dict(zip(chain.entries, chain.attends, strict=True))
    return [n for n in usable if attends[n]], [n for n in usable if not attends[n]]
