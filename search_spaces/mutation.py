"""One architecture of a space from another, a small step away."""

from random import Random

from hybridsearch.search_spaces import repair, sampling, steps
from hybridsearch.search_spaces.plan import read
from hybridsearch.search_spaces.rules import judge
from hybridsearch.search_spaces.space import Space
from hybridsearch.spec.architecture import Architecture
from hybridsearch.spec.canonical import content_hash

ATTEMPTS = 64
FAR = 16
"""Tries after which the steps of one mutation become one more, where constraints leave no single step."""
RESAMPLES = 16


def mutate(space: Space, architecture: Architecture, rng: Random) -> Architecture:
    """Another architecture of the space, usually one step away (`steps.STEPS`): it never has the same hash.

    An architecture that breaks the space's rules is walked into the space. If the space holds nothing else, the
    architecture itself is returned.

    Raises:
        InvalidArchitecture: a mixer is not on the menu.
        Infeasible: no architecture meets the constraints.
    """
    plan, identity = read(space, architecture), content_hash(architecture)
    for attempt in range(ATTEMPTS):
        changed = plan
        for _ in range(1 + attempt // FAR):
            changed = steps.small_step(space, changed, rng) or changed
        verdict = judge(space, changed)
        found = verdict.architecture
        if found is not None and not verdict.faults and content_hash(found) != identity:
            return found
    walked = repair.repair(space, plan, rng)
    if walked.architecture is not None and not walked.faults and content_hash(walked.architecture) != identity:
        return walked.architecture
    return _another(space, architecture, rng)


def _another(space: Space, architecture: Architecture, rng: Random) -> Architecture:
    identity = content_hash(architecture)
    for _ in range(RESAMPLES):
        found = sampling.sample(space, rng)
        if content_hash(found) != identity:
            return found
    return found
