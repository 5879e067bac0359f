"""What samplers and the scheduler may know of a study: its trials by number, each with what counts of its scores.

Only a finished trial has a final score; a stopped or paused one carries the scores of the rungs it reached, and is
compared there alone. A failed or screened one is never compared: a broken architecture that "needs" almost no time must
not look good (it would draw the whole search to it).
"""

from bisect import bisect_left, insort
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence, Set
from dataclasses import dataclass, field
from functools import cached_property
from itertools import islice
from operator import attrgetter

import numpy as np

from hybridsearch.errors import InvalidSetting
from hybridsearch.objectives import Score
from hybridsearch.pareto.crowding import ranking
from hybridsearch.pareto.dominance import Floats, non_dominated
from hybridsearch.search.results import Entry, Results
from hybridsearch.trial import TrialState

__all__ = ["Cohort", "Entry", "History", "Observation", "Results"]

JUDGED = (TrialState.FINISHED, TrialState.STOPPED, TrialState.PAUSED)
"""States of trials that rest at the last rung they reached, so that it tells how good they are."""
FAILED = (TrialState.FAILED, TrialState.SCREENED)
RESTING = (*JUDGED, *FAILED)


@dataclass(frozen=True, slots=True, kw_only=True)
class Observation:
    """One trial as the search sees it.

    Raises:
        InvalidSetting: it has a final score without having finished, or finished without one.
    """

    trial: int
    """Number in its study."""
    hash: str
    """Content hash of the architecture."""
    architecture: str
    """Canonical JSON."""
    state: TrialState
    score: Score | None = None
    """Objective values at the last rung; none unless the trial finished."""
    rung_scores: Mapping[int, Score] = field(default_factory=dict)
    """Score at each rung reached so far: by the objectives' rung metrics below the last rung, final at the last."""
    parents: tuple[int, ...] = ()
    """Numbers of the trials it was made from."""
    sampler: str
    control: str | None = None
    """Name of the control it is, if it is one."""
    seconds: float = 0.0
    """Work to its first rung; 0 where it reached none, or where its numbers were taken over."""

    def __post_init__(self) -> None:
        if (self.score is not None) != (self.state is TrialState.FINISHED):
            found = "a final score" if self.score is not None else "no final score"
            raise InvalidSetting(
                f"trial {self.trial} is {self.state} with {found}; finished trials have one, no others"
            )


class Cohort:
    """Resting trials that can be compared: all were scored at the same rung."""

    def __init__(
        self,
        rung: int,
        members: Sequence[Observation],
        values: Floats | None = None,
        violations: Floats | None = None,
    ) -> None:
        self.rung = rung
        self.members = members
        """By trial number."""
        scores = [self.score(member) for member in members] if values is None or violations is None else []
        self.values: Floats = np.array([s.minimised for s in scores]) if values is None else values
        """(members, objectives), minimised."""
        self.violations: Floats = np.array([s.violation for s in scores]) if violations is None else violations
        """(members,), 0 where feasible."""
        self._leaders: tuple[int, list[Observation]] = (0, [])

    def score(self, member: Observation) -> Score:
        """The member's score at the cohort's rung."""
        return member.rung_scores[self.rung]

    @cached_property
    def leading(self) -> tuple[int, ...]:
        """Places of the non-dominated members."""
        return tuple(np.flatnonzero(non_dominated(self.values, self.violations)).tolist())

    def best_and_latest(self, count: int) -> tuple[Observation, ...]:
        """At most `count` members by number: half of them the best, the others the latest of the rest."""
        if len(self.members) <= count:
            return tuple(self.members)
        best = {o.trial for o in self.leaders(count // 2)}
        latest = islice((o for o in reversed(self.members) if o.trial not in best), count - len(best))
        return tuple(sorted((*self.leaders(count // 2), *latest), key=attrgetter("trial")))

    def leaders(self, count: int) -> list[Observation]:
        """The best members, best first: by rank (constraints first), then the roomier, then the earlier."""
        if self._leaders[0] < count:
            order = ranking(self.values, self.violations, enough=count).order
            self._leaders = (count, [self.members[index] for index in order[:count].tolist()])
        return self._leaders[1][:count]


class History:
    """The trials of one study, always in the order of their numbers, however late their results arrive.

    Whatever is asked for after one more trial was recorded costs no pass over all of them: numbers are kept by state
    and by rung, results by rung.
    """

    def __init__(self, observations: Iterable[Observation] = ()) -> None:
        self._by_number: dict[int, Observation] = {}
        self._hashes: dict[str, int] = {}
        self._numbers: list[int] = []
        self._in_state: dict[TrialState, list[int]] = {state: [] for state in TrialState}
        self._listed: dict[TrialState, tuple[Observation, ...]] = {}
        self._judged: dict[int, list[int]] = {}  # by rung: who rests and has a score at it
        self._highest: dict[int, list[int]] = {}  # by rung: who rests there
        self._paused: dict[int, set[int]] = {}  # by rung: who pauses there
        self._unscored: list[int] = []  # who pauses before the first rung
        self._results: dict[int, Results] = {}
        self._changes: dict[int, int] = {}
        self._cohorts: dict[int, tuple[tuple[int, ...], Cohort]] = {}
        for observation in observations:
            self.record(observation)

    def record(self, observation: Observation) -> None:
        """Add a trial, or replace what was known of it.

        Raises:
            InvalidSetting: the number belongs to another architecture.
        """
        number = observation.trial
        known = self._by_number.get(number)
        if known is not None and known.hash != observation.hash:
            raise InvalidSetting(f"trial {number} is {known.hash[:8]} already, found {observation.hash[:8]}")
        if known is None:
            insort(self._numbers, number)
        self._by_number[number] = observation
        self._hashes.setdefault(observation.hash, number)
        for listed in self._lists(known):
            del listed[bisect_left(listed, number)]
        for listed in self._lists(observation):
            insort(listed, number)
        for seen in (known, observation):
            if seen is not None and seen.state is TrialState.PAUSED and seen.rung_scores:
                at = self._paused.setdefault(max(seen.rung_scores), set())
                (at.add if seen is observation else at.discard)(number)
        self._enter(observation, known)

    def _lists(self, observation: Observation | None) -> Iterator[list[int]]:
        """The lists of numbers that a trial stands in."""
        if observation is None:
            return
        self._listed.pop(observation.state, None)
        yield self._in_state[observation.state]
        if observation.state is TrialState.PAUSED and not observation.rung_scores:
            yield self._unscored
        if observation.state in JUDGED and observation.rung_scores:
            yield self._highest.setdefault(max(observation.rung_scores), [])
            yield from (self._judged.setdefault(rung, []) for rung in observation.rung_scores)

    def _enter(self, observation: Observation, known: Observation | None) -> None:
        """Keep the results by rung; who failed sets no standard for others."""
        before = {} if known is None else known.rung_scores
        for rung in {**before, **observation.rung_scores}:
            results = self._results.setdefault(rung, Results())
            found = observation.rung_scores.get(rung)
            if observation.state in FAILED or found is None:
                results.discard(observation.trial)
            elif known is None or known.state in FAILED or before.get(rung) != found:
                control = observation.control is not None
                results.record(Entry(trial=observation.trial, score=found, control=control))
            if observation.state in JUDGED or (known is not None and known.state in JUDGED):
                self._changes[rung] = self._changes.get(rung, 0) + 1

    def of(self, trial: int) -> Observation:
        """One trial.

        Raises:
            KeyError: there is none of that number.
        """
        return self._by_number[trial]

    def get(self, trial: int) -> Observation | None:
        """One trial, or none if nothing was recorded of that number."""
        return self._by_number.get(trial)

    def __len__(self) -> int:
        return len(self._by_number)

    @property
    def observations(self) -> tuple[Observation, ...]:
        """All trials, by number."""
        return tuple(map(self._by_number.__getitem__, self._numbers))

    @property
    def hashes(self) -> Set[str]:
        """Hashes of all architectures that were ever proposed, whatever became of them."""
        return self._hashes.keys()

    @property
    def finished(self) -> tuple[Observation, ...]:
        """Trials with a final score."""
        return self._in(TrialState.FINISHED)

    @property
    def stopped(self) -> tuple[Observation, ...]:
        """Trials that early stopping ended."""
        return self._in(TrialState.STOPPED)

    @property
    def failed(self) -> tuple[Observation, ...]:
        """Trials that failed or broke a constraint before training."""
        return self._in(*FAILED)

    @property
    def running(self) -> tuple[Observation, ...]:
        """Trials that nothing is known of yet but that they are on their way: waiting, running, or paused unscored."""
        unscored = map(self._by_number.__getitem__, self._unscored)
        return _by_number((*unscored, *self._in(TrialState.WAITING, TrialState.RUNNING)))

    def latest(
        self, states: Iterable[TrialState], count: int, wanted: Callable[[Observation], bool]
    ) -> list[Observation]:
        """The `count` youngest trials in one of the states that are wanted, by number."""
        found: list[Observation] = []
        for state in states:
            trials = map(self._by_number.__getitem__, reversed(self._in_state[state]))
            found += islice(filter(wanted, trials), count)
        return list(_by_number(found))[-count:] if count else []

    def below(self, rung: int, count: int) -> list[Observation]:
        """The `count` youngest trials that rest at a rung below this one, by number."""
        found = sorted(n for at, numbers in self._highest.items() if at < rung for n in numbers[-count:])
        return [self._by_number[number] for number in found[-count:]] if count else []

    def paused(self, rung: int) -> Set[int]:
        """Numbers of the trials that pause at a rung, for whatever reason."""
        return self._paused.get(rung, frozenset())

    def _in(self, *states: TrialState) -> tuple[Observation, ...]:
        for state in states:
            if state not in self._listed:
                self._listed[state] = tuple(map(self._by_number.__getitem__, self._in_state[state]))
        return self._listed[states[0]] if len(states) == 1 else _by_number(o for s in states for o in self._listed[s])

    def cohort(self, enough: int) -> Cohort | None:
        """The trials to learn from: those that rest with a score at the highest rung that `enough` of them reached.

        With early stopping few trials finish; until there are enough, finished ones and those that were stopped or
        pause are compared where all were scored. Failed and screened ones are never among them. None if no rung has
        enough.
        """
        for rung in sorted(self._results, reverse=True):
            # A cohort stays what it is until a trial at its rung or a higher one changes.
            stamp = tuple(self._changes.get(r, 0) for r in sorted(self._results) if r >= rung)
            known = self._cohorts.get(enough)
            if known is not None and known[1].rung == rung and known[0] == stamp:
                return known[1]
            judged, results = self._judged.get(rung, []), self._results[rung]
            if len(judged) >= enough:
                members = list(map(self._by_number.__getitem__, judged))
                places = np.searchsorted(results.trials, judged)
                cohort = Cohort(rung, members, results.values[places], results.violations[places])
                self._cohorts[enough] = (stamp, cohort)
                return cohort
        return None

    def results(self, rung: int) -> Results:
        """What was recorded at a rung; who failed later sets no standard for others."""
        return self._results.get(rung) or Results()

    def entries(self, rung: int) -> list[Entry]:
        """The same as a list, by trial number."""
        return list(self.results(rung).entries)


def _by_number(observations: Iterable[Observation]) -> tuple[Observation, ...]:
    return tuple(sorted(observations, key=attrgetter("trial")))
