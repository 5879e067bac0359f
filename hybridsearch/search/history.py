"""What samplers and the scheduler may know of a study: its trials by number, each with what counts of its scores.

Only a finished trial has a final score; a stopped or paused one carries the scores of the rungs it reached, and is
compared there alone. A failed or screened one is never compared: a broken architecture that "needs" almost no time must
not look good (it would draw the whole search to it).
"""

from collections.abc import Iterable, Mapping, Sequence, Set
from dataclasses import dataclass, field

from hybridsearch.errors import InvalidSetting
from hybridsearch.objectives import Score
from hybridsearch.pareto.crowding import ranking
from hybridsearch.trial import TrialState

JUDGED = (TrialState.FINISHED, TrialState.STOPPED, TrialState.PAUSED)
"""States of trials that rest at the last rung they reached, so that it tells how good they are."""
FAILED = (TrialState.FAILED, TrialState.SCREENED)


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

    def __post_init__(self) -> None:
        if (self.score is not None) != (self.state is TrialState.FINISHED):
            found = "a final score" if self.score is not None else "no final score"
            raise InvalidSetting(
                f"trial {self.trial} is {self.state} with {found}; finished trials have one, no others"
            )


@dataclass(frozen=True, slots=True, kw_only=True)
class Entry:
    """A result recorded at one rung."""

    trial: int
    score: Score
    control: bool = False


class Cohort:
    """Resting trials that can be compared: all were scored at the same rung."""

    def __init__(self, rung: int, members: Sequence[Observation]) -> None:
        self.rung = rung
        self.members = members
        """By trial number."""
        self._leaders: tuple[int, list[Observation]] = (0, [])

    def score(self, member: Observation) -> Score:
        """The member's score at the cohort's rung."""
        return member.rung_scores[self.rung]

    def leaders(self, count: int) -> list[Observation]:
        """The best members, best first: by rank (constraints first), then the roomier, then the earlier."""
        if self._leaders[0] < count:
            scores = [self.score(member) for member in self.members]
            order = ranking([s.minimised for s in scores], [s.violation for s in scores], enough=count).order
            self._leaders = (count, [self.members[index] for index in order[:count].tolist()])
        return self._leaders[1][:count]


class History:
    """The trials of one study, always in the order of their numbers, however late their results arrive."""

    def __init__(self, observations: Iterable[Observation] = ()) -> None:
        self._by_number: dict[int, Observation] = {}
        self._hashes: dict[str, int] = {}
        self._ordered: tuple[Observation, ...] | None = ()
        self._grouped: dict[TrialState, tuple[Observation, ...]] = {}
        self._cohorts: dict[int, Cohort | None] = {}
        self._entries: dict[int, dict[int, Entry]] = {}
        for observation in observations:
            self.record(observation)

    def record(self, observation: Observation) -> None:
        """Add a trial, or replace what was known of it.

        Raises:
            InvalidSetting: the number belongs to another architecture.
        """
        known = self._by_number.get(observation.trial)
        if known is not None and known.hash != observation.hash:
            raise InvalidSetting(f"trial {observation.trial} is {known.hash[:8]} already, found {observation.hash[:8]}")
        self._by_number[observation.trial] = observation
        self._hashes.setdefault(observation.hash, observation.trial)
        self._ordered = None
        self._grouped.clear()
        self._enter(observation)
        if observation.state in JUDGED or (known is not None and known.state in JUDGED):
            self._cohorts.clear()

    def _enter(self, observation: Observation) -> None:
        """Keep the results by rung; who failed sets no standard for others."""
        for rung, found in observation.rung_scores.items():
            at_rung = self._entries.setdefault(rung, {})
            if observation.state in FAILED:
                at_rung.pop(observation.trial, None)
            else:
                control = observation.control is not None
                at_rung[observation.trial] = Entry(trial=observation.trial, score=found, control=control)

    def of(self, trial: int) -> Observation:
        """One trial.

        Raises:
            KeyError: there is none of that number.
        """
        return self._by_number[trial]

    def __len__(self) -> int:
        return len(self._by_number)

    @property
    def observations(self) -> tuple[Observation, ...]:
        """All trials, by number."""
        if self._ordered is None:
            self._ordered = tuple(self._by_number[number] for number in sorted(self._by_number))
        return self._ordered

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
        return tuple(o for o in self.observations if o.state in FAILED)

    @property
    def running(self) -> tuple[Observation, ...]:
        """Trials that nothing is known of yet but that they are on their way: waiting, running, or paused unscored."""
        return tuple(o for o in self.observations if not o.state.final and not _rests(o))

    @property
    def judged(self) -> tuple[Observation, ...]:
        """Trials that rest at the last rung they reached: finished, stopped, or paused."""
        return tuple(o for o in self.observations if o.state in JUDGED)

    @property
    def resting(self) -> tuple[Observation, ...]:
        """All others: ended, whatever the end, or paused with a score."""
        return tuple(o for o in self.observations if o.state.final or _rests(o))

    def _in(self, state: TrialState) -> tuple[Observation, ...]:
        if state not in self._grouped:
            self._grouped[state] = tuple(o for o in self.observations if o.state is state)
        return self._grouped[state]

    def cohort(self, enough: int) -> Cohort | None:
        """The trials to learn from: those that rest with a score at the highest rung that `enough` of them reached.

        With early stopping few trials finish; until there are enough, finished ones and those that were stopped or
        pause are compared where all were scored. Failed and screened ones are never among them. None if no rung has
        enough.
        """
        if enough not in self._cohorts:
            self._cohorts[enough] = self._find_cohort(enough)
        return self._cohorts[enough]

    def _find_cohort(self, enough: int) -> Cohort | None:
        for rung in sorted(self._entries, reverse=True):
            reached = sorted(self._entries[rung])
            members = [o for trial in reached if (o := self._by_number[trial]).state in JUDGED]
            if len(members) >= enough:
                return Cohort(rung, members)
        return None

    def entries(self, rung: int) -> list[Entry]:
        """What was recorded at a rung, by trial number; who failed later sets no standard for others."""
        at_rung = self._entries.get(rung, {})
        return [at_rung[trial] for trial in sorted(at_rung)]


def _rests(observation: Observation) -> bool:
    return observation.state is TrialState.PAUSED and bool(observation.rung_scores)
