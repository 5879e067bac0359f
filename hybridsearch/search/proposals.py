"""The words between samplers and their caller, and the loop that all samplers share: draw, and draw again if known.

A sampler keeps nothing between calls. Proposal number n takes its randomness from the study's seed, the sampler's
name and n, and everything else from the history: a resumed search neither repeats nor loses a draw.
"""

import random
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import islice, repeat

from hybridsearch import seeds
from hybridsearch.objectives import Objective
from hybridsearch.search.history import History, Observation
from hybridsearch.search_spaces import mutation, sampling
from hybridsearch.search_spaces.space import Space
from hybridsearch.spec.architecture import Architecture
from hybridsearch.spec.canonical import canonical_json, content_hash
from hybridsearch.trial import TrialState

REDRAWS = 16
"""Draws of a sampler before it counts as stuck on known architectures."""
WALK = 64
"""Mutations tried from where it is stuck."""
SWEEP = 256
"""Random draws after that, before a space that is too large to list counts as exhausted."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Request:
    """What a caller wants."""

    space: Space
    objectives: tuple[Objective, ...]
    seed: int
    """The study's."""
    number: int
    """Trial number of the first proposal; the others follow."""
    count: int = 1


@dataclass(frozen=True, slots=True, kw_only=True)
class Proposal:
    """An architecture to try, with its provenance."""

    architecture: Architecture
    sampler: str
    parents: tuple[int, ...] = ()
    """Numbers of the trials it was made from."""


Sampler = Callable[[History, Request], list[Proposal]]
"""Proposes architectures that are not in the history; fewer than asked for, or none, if the space is exhausted."""


@dataclass(frozen=True, slots=True)
class Draft:
    """An architecture, new or not, and the trials it was made from."""

    architecture: Architecture
    parents: tuple[int, ...] = ()


Drafter = Callable[[History, Request, random.Random], Iterator[Draft]]
"""A sampler's own part: drafts without end, for one proposal."""


def collect(history: History, request: Request, name: str, drafter: Drafter, redraws: int = REDRAWS) -> list[Proposal]:
    """Draw `request.count` architectures that are new; each counts as running while the next is drawn.

    So asking for three at once is the same as asking three times.

    Raises:
        Infeasible: no architecture of the space meets its constraints.
    """
    known = History(history.observations) if request.count > 1 else history
    proposals: list[Proposal] = []
    for number in range(request.number, request.number + request.count):
        rng = seeds.stream(request.seed, "sampler", name, number)
        draft = _first_new(known, _candidates(known, request, drafter, redraws, rng))
        if draft is None:
            break
        proposals.append(Proposal(architecture=draft.architecture, sampler=name, parents=draft.parents))
        if request.count > 1:
            known.record(_running(number, draft, name))
    return proposals


def at_random(space: Space, rng: random.Random) -> Draft:
    """Any architecture of the space."""
    return Draft(sampling.sample(space, rng))


def _candidates(
    history: History, request: Request, drafter: Drafter, redraws: int, rng: random.Random
) -> Iterator[Draft]:
    """The sampler's drafts, then a walk from the last of them, then the rest of the space."""
    draft: Draft | None = None
    for draft in islice(drafter(history, request, rng), redraws):
        yield draft
    for _ in repeat(None, WALK if draft is not None else 0):
        assert draft is not None
        draft = Draft(mutation.mutate(request.space, draft.architecture, rng), draft.parents)
        yield draft
    listing = request.space.listing
    if listing is not None:
        yield from (Draft(architecture) for architecture in rng.sample(listing, len(listing)))
    else:
        yield from (at_random(request.space, rng) for _ in range(SWEEP))


def _first_new(history: History, drafts: Iterator[Draft]) -> Draft | None:
    return next((draft for draft in drafts if content_hash(draft.architecture) not in history.hashes), None)


def _running(number: int, draft: Draft, name: str) -> Observation:
    return Observation(
        trial=number,
        hash=content_hash(draft.architecture),
        architecture=canonical_json(draft.architecture),
        state=TrialState.RUNNING,
        parents=draft.parents,
        sampler=name,
    )
