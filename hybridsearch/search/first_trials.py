"""What to try while there are too few trials for a model: what a model will learn most from, for its cost.

Of a pool of drafts, half from the expert prior and half from the whole space, the one whose value is the most uncertain
to a linear model over the terms of `chain.Chain` goes first, per second of its training: a design of experiments that
is greedy in the determinant, sees those that still run, and does not spend its first hour on the slowest stacks.
"""

import random
from collections.abc import Iterator

import numpy as np

from hybridsearch.pareto.dominance import Floats
from hybridsearch.search.chain import chain_of, row_of
from hybridsearch.search.cost import cost_of
from hybridsearch.search.history import History
from hybridsearch.search.prior import prior_draft
from hybridsearch.search.proposals import Draft, at_random
from hybridsearch.search_spaces.space import Space
from hybridsearch.spec.canonical import canonical_json

POOL = 48
KNOWN = 160
"""Most trials that count as tried, the latest."""
NOISE = 0.3
"""Variance of a trial's value, in units of the terms' prior spreads; 0.05 gave the same searches."""


def first_drafts(history: History, space: Space, rng: random.Random) -> Iterator[Draft]:
    """Drafts, the most informative for its cost first; then at random, without end."""
    pool = [prior_draft(space, rng) if rng.random() < 0.5 else at_random(space, rng) for _ in range(POOL)]
    rows = [row_of(space, canonical_json(draft.architecture)) for draft in pool]
    found = [(draft, row) for draft, row in zip(pool, rows, strict=True) if row is not None]
    if found:
        asked = np.array([row for _, row in found])
        tried = history.observations[-KNOWN:]
        spreads = chain_of(space).spreads
        known = [row * spreads for o in tried if (row := row_of(space, o.architecture)) is not None]
        worth = uncertainty(asked * spreads, np.array(known).reshape(-1, len(spreads))) / cost_of(tried, space)(asked)
        yield from (found[place][0] for place in np.argsort(-worth, kind="stable"))
    while True:
        yield at_random(space, rng)


def uncertainty(asked: Floats, known: Floats) -> Floats:
    """Variance (n,) of what a linear model with unit weights' prior says of rows (n, terms), told of (m, terms)."""
    cross = asked @ known.T
    gram = known @ known.T + NOISE * np.eye(len(known))
    left: Floats = (asked**2).sum(axis=1) - (cross * np.linalg.solve(gram, cross.T).T).sum(axis=1)
    return left
