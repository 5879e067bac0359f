"""Evolution over the grammar of architectures: parents by rank and crowding, children by small steps.

Steady state: every ask looks at all trials that ended, so it needs no generations and no barrier between workers.
Trials that are still running only keep their architecture from being drawn twice.
"""

import random
from collections.abc import Iterator
from functools import lru_cache

from hybridsearch.errors import InvalidArchitecture
from hybridsearch.search.history import History, Observation
from hybridsearch.search.proposals import Draft, Proposal, Request, at_random, collect
from hybridsearch.search_spaces import crossover, mutation
from hybridsearch.search_spaces.plan import read
from hybridsearch.search_spaces.space import Space
from hybridsearch.spec.architecture import Architecture
from hybridsearch.spec.canonical import parse

ENOUGH = 8
"""Comparable trials before the first child is bred."""
POPULATION = 24
"""Most trials that may become parents: the better half, up to this many."""
CROSSOVER_SHARE = 0.1
"""Share of children of two parents; 0.25 and 0.5 were no better in searches of 100 trials on a made-up table."""
RANDOM_SHARE = 0.1
"""Share of children that are drawn from the whole space, so that no region is ever given up."""
FURTHER_STEP = 0.67
"""Chance of each further mutation of a child: three steps on average. Single steps repeat what the parent showed."""


def evolution(history: History, request: Request) -> list[Proposal]:
    """Mutate, sometimes cross, the best trials that ended; draw at random until there are enough."""
    return collect(history, request, "evolution", _drafts)


def _drafts(history: History, request: Request, rng: random.Random) -> Iterator[Draft]:
    population = _population(history, request.space)
    while True:
        if len(population) < 2 or rng.random() < RANDOM_SHARE:
            yield at_random(request.space, rng)
        else:
            yield _child(population, request.space, rng)


def _population(history: History, space: Space) -> list[Observation]:
    cohort = history.cohort(ENOUGH)
    if cohort is None:
        return []
    leaders = cohort.leaders(min(POPULATION, (len(cohort.members) + 1) // 2))
    return [o for o in leaders if o.control is None or _can_breed(space, o)]


def _can_breed(space: Space, control: Observation) -> bool:
    """Whether the control's mixers are on the menu: controls need not lie in the space."""
    try:
        read(space, _architecture(control.architecture))
    except InvalidArchitecture:
        return False
    return True


def _child(population: list[Observation], space: Space, rng: random.Random) -> Draft:
    mother = _tournament(population, rng)
    child = _architecture(mother.architecture)
    parents: tuple[int, ...] = (mother.trial,)
    if rng.random() < CROSSOVER_SHARE:
        father = _tournament([o for o in population if o is not mother], rng)
        child = crossover.cross(space, child, _architecture(father.architecture), rng)
        parents = (*parents, father.trial)
    else:
        child = mutation.mutate(space, child, rng)
    while rng.random() < FURTHER_STEP:
        child = mutation.mutate(space, child, rng)
    return Draft(child, parents)


def _tournament(population: list[Observation], rng: random.Random) -> Observation:
    """The better of two; the population is in order, so the lower index is the better one."""
    return population[min(rng.randrange(len(population)), rng.randrange(len(population)))]


@lru_cache(maxsize=256)
def _architecture(text: str) -> Architecture:
    return parse(text)
