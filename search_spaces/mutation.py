"""One architecture of a space from another, a small step away."""

from random import Random

from hybridsearch.search_spaces import repair, sampling, steps
from hybridsearch.search_spaces.plan import read
from hybridsearch.search_spaces.rules import judge
from hybridsearch.search_spaces.space import Space
from hybridsearch.spec.architecture import Architecture

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
    plan = read(space, architecture)
    # Plans express architectures in one form, so equal ones (with equal hashes) are equal objects.
    origin = judge(space, plan).architecture
    for attempt in range(ATTEMPTS):
        changed = plan
        for _ in range(1 + attempt // FAR):
            changed = steps.small_step(space, changed, rng) or changed
        verdict = judge(space, changed)
        if verdict.architecture is not None and not verdict.faults and verdict.architecture != origin:
            return verdict.architecture
    walked = repair.repair(space, plan, rng)
    if walked.architecture is not None and not walked.faults and walked.architecture != origin:
        return walked.architecture
    for _ in range(RESAMPLES):
        found = sampling.sample(space, rng)
        if found != origin:
            return found
    return found
