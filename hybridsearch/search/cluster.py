"""A surrogate over layer assignments: cluster expansion, Bayesian linear regression, hypervolume improvement.

Every objective gets a linear model over the terms of `chain.Chain`, with a closed-form posterior. Candidates are the
exact optima of random scalarisations of posterior draws (dynamic programming over the layers), small steps away from
the front, and random ones; the one with the largest expected hypervolume improvement is proposed, the expectation
taken over posterior draws and the hypervolume over random directions (2006.04655).

Trials of lower rungs teach as well, but never as if they were finished: what a rung's value says about the value at
the top is itself learned, by regression on the trials that have both, and its residual is their noise. That is worth
more than exact values of a low rung: the model speaks of the top as soon as `AT_RUNG` trials came there. Expected
improvements are taken per second of training, and what those that still run will be is drawn along.
"""

import random
from collections.abc import Callable, Iterator, Set
from dataclasses import dataclass

import numpy as np

from hybridsearch.objectives import reference_point
from hybridsearch.pareto.dominance import Floats
from hybridsearch.search.chain import Chain, Listed, chain_of, listed, plan_of, row_of
from hybridsearch.search.cost import cost_of
from hybridsearch.search.first_trials import first_drafts
from hybridsearch.search.history import Cohort, History
from hybridsearch.search.improvement import improvement
from hybridsearch.search.lifting import lifted
from hybridsearch.search.proposals import Draft, Proposal, Request, at_random, collect
from hybridsearch.search.regression import Model, fit_all
from hybridsearch.search_spaces import sampling, steps
from hybridsearch.search_spaces.plan import Plan
from hybridsearch.search_spaces.rules import judge
from hybridsearch.search_spaces.space import Space

ENOUGH = 8
"""Trials before the first model; until then `first_trials` says what to try."""
AT_RUNG = 4
"""Trials at a rung before the model is of that rung: with 8 a search of the shipped table took a quarter longer."""
TOLD = 160
"""Most trials that a model is fitted to, half of them the best and half the latest, and half as many of lower rungs: an
ask costs the same at 10,000 trials as at 300."""
RANDOM_SHARE = 0.05
"""Share of proposals drawn from the whole space, so that no region is ever given up."""
OPTIMA = 8
"""Random scalarisations whose exact optimum becomes a candidate."""
NEAR = 40
"""Candidates one to three small steps away from the front."""
FAR = 20
"""Candidates from anywhere."""
CENTRES = 6
NEIGHBOURS = 24
"""In a space restricted to some members: members of the front, and how many members count as near to each. The best of
all members by the model alone was no better: what it misses is found by trying what is like the front."""
DRAWS = 6
"""Of the posterior. Few: the differences between them are what makes proposals explore."""


def cluster(history: History, request: Request) -> list[Proposal]:
    """Propose what is expected to add most to the hypervolume."""
    return collect(history, request, "cluster", _drafts)


def _drafts(history: History, request: Request, rng: random.Random) -> Iterator[Draft]:
    cohort = history.cohort(AT_RUNG)
    data = None if cohort is None else _gather(history, cohort, request)
    members = listed(request.space) if request.space.members is not None else None
    if data is None:
        yield from first_drafts(history, request.space, rng)
        return
    if rng.random() < RANDOM_SHARE:
        yield at_random(request.space, rng)
    if members is None:
        yield from _ranked(data, request.space, rng)
    else:
        yield from _ranked_members(data, members, history.hashes, request.space, rng)


@dataclass(frozen=True, slots=True)
class _Data:
    """What the models learn from."""

    rows: Floats
    """(trials, terms)."""
    targets: Floats
    """(trials, objectives), at the cohort's rung, in the users' direction."""
    noise: Floats
    """(trials, objectives) variance of what was told of a lower rung's value; 0 where the value itself is known."""
    signs: Floats
    """(objectives,) -1 where larger is better."""
    front: list[tuple[int, Plan]]
    """Non-dominated trials that lie in the space."""
    values: Floats
    """(front, objectives), minimised."""
    worst: Floats
    """(objectives,) worst value that still counts, minimised."""
    running: Floats
    """(trials, terms) of those that nothing is known of yet."""
    cost: Callable[[Floats], Floats]
    """What candidates cost, by their rows."""


def _gather(history: History, cohort: Cohort, request: Request) -> _Data | None:
    space = request.space
    members = cohort.best_and_latest(TOLD)
    below = history.below(cohort.rung, TOLD // 2)
    known = [(o, np.array(cohort.score(o).values), np.zeros(len(request.objectives))) for o in members]
    told = (*known, *lifted(below, cohort))
    found = [(row, *said) for o, *said in told if (row := row_of(space, o.architecture)) is not None]
    if len(found) < ENOUGH:
        return None
    signs = np.array([-1.0 if d == "maximize" else 1.0 for d in cohort.score(members[0]).directions])
    minimised = cohort.values
    plans = [(i, plan_of(space, cohort.members[i].architecture)) for i in cohort.leading]
    running = [row for o in history.running if (row := row_of(space, o.architecture)) is not None]
    return _Data(
        rows=np.array([row for row, *_ in found]),
        targets=np.array([target for _, target, _ in found]),
        noise=np.array([noise for *_, noise in found]),
        signs=signs,
        front=[(cohort.members[i].trial, plan) for i, plan in plans if plan is not None],
        values=minimised[list(cohort.leading)],
        worst=_worst(minimised, request, final=any(o.score is not None for o in members)),
        running=np.array(running).reshape(len(running), len(found[0][0])),
        cost=cost_of([*members, *below], space),
    )


def _worst(minimised: Floats, request: Request, *, final: bool) -> Floats:
    """The study's reference point, unless it lies so far off that nothing between it and the trials would count."""
    best, seen = minimised.min(axis=0), minimised.max(axis=0)
    far: Floats = seen + np.where(seen > best, seen - best, 1.0)
    worst: Floats = np.minimum(np.array(reference_point(request.objectives)), far) if final else seen
    return worst


def _ranked(data: _Data, space: Space, rng: random.Random) -> Iterator[Draft]:
    """Candidates in the order of their expected improvement."""
    chain = chain_of(space)
    numbers = np.random.default_rng(rng.getrandbits(63))
    models = _models(data, chain)
    candidates = _candidates(data, chain, models, rng, numbers)
    for index in _order(data, models, np.array([chain.row(plan) for plan, _ in candidates]), numbers):
        plan, parents = candidates[index]
        verdict = judge(space, plan)
        if verdict.architecture is not None and not verdict.faults:
            yield Draft(verdict.architecture, parents)


def _ranked_members(data: _Data, members: Listed, tried: Set[str], space: Space, rng: random.Random) -> Iterator[Draft]:
    """The same in a space restricted to some members: optima, neighbours of the front and others among the untried."""
    numbers = np.random.default_rng(rng.getrandbits(63))
    chain = chain_of(space)
    models = _models(data, chain)
    left = np.array([index for index, digest in enumerate(members.hashes) if digest not in tried], dtype=np.int64)
    if not len(left):
        return
    rows = members.rows[left]
    chosen = {int(np.argmin(rows @ _scalarised(models, data.signs, numbers))) for _ in range(OPTIMA)}
    for _, plan in rng.sample(data.front, min(CENTRES, len(data.front))):
        far = np.abs((rows - chain.row(plan)) * chain.spreads).sum(axis=1)
        nearest = np.argpartition(far, min(NEIGHBOURS, len(far)) - 1)[:NEIGHBOURS].tolist()
        chosen.update(rng.sample(nearest, min(NEAR // CENTRES, len(nearest))))
    chosen.update(rng.sample(range(len(left)), min(FAR, len(left))))
    candidates = sorted(chosen)
    for place in _order(data, models, rows[candidates], numbers):
        yield Draft(members.architectures[int(left[candidates[place]])])


def _models(data: _Data, chain: Chain) -> list[Model]:
    return fit_all(data.rows, data.targets, chain.spreads, data.noise)


def _order(data: _Data, models: list[Model], rows: Floats, numbers: np.random.Generator) -> list[int]:
    """Places of the candidates' rows, the largest expected improvement for its cost first."""
    both = np.concatenate([data.running, rows])
    values = [model.values(both, model.weights(numbers, DRAWS)) for model in models]
    draws = np.stack(values, axis=2) * data.signs
    pending, asked = np.split(draws, [len(data.running)], axis=1)
    worth = improvement(asked, data.values, data.worst, numbers, pending) / data.cost(rows)
    order: list[int] = np.argsort(-worth, kind="stable").tolist()
    return order


def _candidates(
    data: _Data, chain: Chain, models: list[Model], rng: random.Random, numbers: np.random.Generator
) -> list[tuple[Plan, tuple[int, ...]]]:
    space = chain.space
    found: dict[tuple[object, ...], tuple[Plan, tuple[int, ...]]] = {}

    def add(plan: Plan, parents: tuple[int, ...]) -> None:
        used = [key for name in dict.fromkeys(plan.layers) for key in chain.keys(name, plan.options)]
        key = (plan.width, plan.layers, plan.feed_forward, *(plan.options[name] for name in used))
        found.setdefault(key, (plan, parents))

    for _ in range(OPTIMA if space.free else 0):
        base, parents = _start(data, space, rng)
        layers = chain.best_layers(_scalarised(models, data.signs, numbers), base)
        if layers is not None:
            add(Plan(base.width, layers, base.options, base.feed_forward), parents)
    for _ in range(NEAR if data.front else 0):
        trial, plan = rng.choice(data.front)
        for _ in range(rng.choice((1, 1, 2, 3))):
            plan = steps.small_step(space, plan, rng) or plan
        add(plan, (trial,))
    for _ in range(FAR):
        add(sampling.draw(space, rng), ())
    return list(found.values())


def _start(data: _Data, space: Space, rng: random.Random) -> tuple[Plan, tuple[int, ...]]:
    """A plan whose sizes and options are kept while its layers are optimised."""
    if data.front and rng.random() < 0.5:
        trial, plan = rng.choice(data.front)
        return plan, (trial,)
    return sampling.draw(space, rng), ()


def _scalarised(models: list[Model], signs: Floats, numbers: np.random.Generator) -> Floats:
    """Weights (terms,) of a random trade-off between one posterior draw of every objective, to be made small.

    Scales are monotone, so each objective is traded on the scale on which it is linear.
    """
    trade = numbers.dirichlet(np.ones(len(models)))
    turned = [sign if model.scale.rising else -sign for sign, model in zip(signs, models, strict=True)]
    total: Floats = np.sum(
        [t * sign * m.weights(numbers, 1)[0] for t, sign, m in zip(trade, turned, models, strict=True)], axis=0
    )
    return total
