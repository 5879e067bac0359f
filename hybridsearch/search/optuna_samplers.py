"""NSGA-II and TPE of Optuna 5, over the flat encoding of a space. The only door to Optuna.

Optuna keeps no state for us: each proposal gets a study in memory, filled from the history and forgotten afterwards.
What a study is told is bounded, so an ask costs the same at 10,000 trials as at 300. All values are minimised, the
constraints' violation is one Optuna constraint, and trials that are still running are told to TPE as running
(a constant liar keeps workers apart).
"""

import random
from collections.abc import Iterator
from copy import copy
from functools import lru_cache
from typing import Any

import optuna
from optuna.distributions import BaseDistribution, CategoricalDistribution, IntDistribution
from optuna.samplers import BaseSampler, NSGAIISampler, TPESampler
from optuna.study import Study
from optuna.trial import FrozenTrial, TrialState, create_trial

from hybridsearch.search.history import RESTING, Cohort, History, Observation
from hybridsearch.search.proposals import Draft, Proposal, Request, at_random, collect
from hybridsearch.search_spaces import encoding
from hybridsearch.search_spaces.space import Space
from hybridsearch.spec.canonical import parse

ENOUGH = 10
"""Comparable trials before a model is asked; until then draws are random."""
POPULATION = 40
"""Parents of NSGA-II: the best trials that ended."""
BEST = 50
RECENT = 100
"""Trials that TPE is told: so many of the best, and so many of the latest others."""
BAD_SHARE = 9
"""Most trials without a comparable score that TPE is told for each one with: its good tenth stays real."""
UNFINISHED = 1e12
"""Constraint violation of a trial without a comparable score: worse than any real one."""
REDRAWS = 6


class _SteadyNsga2(NSGAIISampler):
    """NSGA-II without generations: the parents are always the best of all trials, and these fill the study."""

    def get_trial_generation(self, study: Study, trial: FrozenTrial) -> int:
        return 1

    def get_parent_population(self, study: Study, generation: int) -> list[FrozenTrial]:
        return study.get_trials(deepcopy=False, states=(TrialState.COMPLETE,))


class _Choice(CategoricalDistribution):
    """Optuna copies and compares the distributions of every trial it is told; these never change, so once will do.

    It halves the time of an ask of TPE.
    """

    def __deepcopy__(self, memo: dict[int, Any]) -> "_Choice":
        return self

    def __eq__(self, other: object) -> bool:
        return self is other or super().__eq__(other)

    __hash__ = CategoricalDistribution.__hash__


class _Same:
    """A space as a key of caches: the same object, whatever it holds."""

    __slots__ = ("space",)

    def __init__(self, space: Space) -> None:
        self.space = space

    def __hash__(self) -> int:
        return id(self.space)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _Same) and other.space is self.space


def nsga2(history: History, request: Request) -> list[Proposal]:
    """Cross and mutate the best trials that ended, in the flat encoding."""
    return collect(history, request, "nsga2", _nsga2_drafts, REDRAWS)


def tpe(history: History, request: Request) -> list[Proposal]:
    """Draw where good trials are denser than bad ones, in the flat encoding."""
    return collect(history, request, "tpe", _tpe_drafts, REDRAWS)


def _nsga2_drafts(history: History, request: Request, rng: random.Random) -> Iterator[Draft]:
    cohort = history.cohort(ENOUGH)
    told = [] if cohort is None else _scored(cohort, cohort.leaders(POPULATION), request.space)
    if len(told) < 2:
        while True:
            yield at_random(request.space, rng)
    sampler = _SteadyNsga2(population_size=max(2, len(told)), seed=rng.getrandbits(32))
    yield from _asked(sampler, told, request)


def _tpe_drafts(history: History, request: Request, rng: random.Random) -> Iterator[Draft]:
    cohort = history.cohort(ENOUGH)
    told = [] if cohort is None else _told_to_tpe(history, cohort, request.space)
    if not told:
        while True:
            yield at_random(request.space, rng)
    sampler = TPESampler(n_startup_trials=0, multivariate=True, constant_liar=True, seed=rng.getrandbits(32))
    yield from _asked(sampler, told, request)


def _asked(sampler: BaseSampler, told: list[FrozenTrial], request: Request) -> Iterator[Draft]:
    """What the sampler proposes to a study that was told these trials."""
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    study = optuna.create_study(directions=["minimize"] * len(request.objectives), sampler=sampler)
    study.add_trials(told)
    distributions = _distributions(_Same(request.space))
    while True:
        values = study.ask(distributions).params
        yield Draft(encoding.decode(request.space, values))


def _told_to_tpe(history: History, cohort: Cohort, space: Space) -> list[FrozenTrial]:
    """Best and latest scored trials, the latest bad ones, and all that run, each group by number."""
    best = {o.trial for o in cohort.leaders(BEST)}
    latest = [o for o in cohort.members if o.trial not in best][-RECENT:]
    scored = [o for o in cohort.members if o.trial in best] + latest
    good = _scored(cohort, sorted(scored, key=lambda o: o.trial), space)
    known = {o.trial for o in cohort.members}
    bad = history.latest(RESTING, min(RECENT, BAD_SHARE * len(good)), lambda o: o.trial not in known and not _new(o))
    return [*good, *_unscored(bad, space, TrialState.PRUNED), *_unscored(history.running, space, TrialState.RUNNING)]


def _new(trial: Observation) -> bool:
    """Whether nothing is known of it: such trials are told as running."""
    return not trial.state.final and not trial.rung_scores


def _scored(cohort: Cohort, members: list[Observation], space: Space) -> list[FrozenTrial]:
    scores = map(cohort.score, members)
    told = [
        _told(_Same(space), member.architecture, TrialState.COMPLETE, score.minimised, score.violation)
        for member, score in zip(members, scores, strict=True)
    ]
    return [trial for trial in told if trial is not None]


def _unscored(
    trials: list[Observation] | tuple[Observation, ...], space: Space, state: TrialState
) -> list[FrozenTrial]:
    told = [_told(_Same(space), trial.architecture, state, None, UNFINISHED) for trial in trials]
    return [trial for trial in told if trial is not None]


class _Told(FrozenTrial):
    """A trial that Optuna was told before and may be told again.

    Optuna checks and copies whatever it is told, to set its number. Nothing else of it ever changes, so one check and a
    copy of the outside will do: it leaves a quarter of the time of an ask of TPE.
    """

    def __deepcopy__(self, memo: dict[int, Any]) -> FrozenTrial:
        return copy(self)

    def _validate(self) -> None:
        """`create_trial` has."""


@lru_cache(maxsize=1024)
def _told(
    space: _Same, architecture: str, state: TrialState, values: tuple[float, ...] | None, violation: float
) -> FrozenTrial | None:
    """A trial for Optuna; None outside the flat encoding."""
    params = _values(space, architecture)
    if params is None:
        return None
    made = create_trial(
        state=state, params=params, distributions=_distributions(space), values=values,
        constraints={"violation": violation},
    )  # fmt: skip
    told = _Told.__new__(_Told)
    told.__dict__.update(made.__dict__)
    return told


@lru_cache(maxsize=4096)
def _values(space: _Same, architecture: str) -> dict[str, Any] | None:
    """The architecture in the flat encoding; None outside it (a control need not lie in the space)."""
    return encoding.encode(space.space, parse(architecture))


@lru_cache(maxsize=8)
def _distributions(space: _Same) -> dict[str, BaseDistribution]:
    return {parameter.name: _distribution(parameter) for parameter in encoding.parameters(space.space)}


def _distribution(parameter: encoding.Parameter) -> BaseDistribution:
    if isinstance(parameter, encoding.Categorical):
        return _Choice(parameter.choices)
    return IntDistribution(parameter.low, parameter.high)
