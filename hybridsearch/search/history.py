"""What samplers and the scheduler may know of a study: its trials by number, each with what counts of its scores.

Only a finished trial has a final score; a stopped one carries the scores of the rungs it reached, and is compared there
alone. A failed or screened one is never compared: a broken architecture that "needs" almost no time must not look good
(it would draw the whole search to it).
"""

from collections.abc import Iterable, Mapping, Sequence, Set
from dataclasses import dataclass, field

from hybridsearch.errors import InvalidSetting
from hybridsearch.objectives import Score
from hybridsearch.pareto.crowding import ranking
from hybridsearch.trial import TrialState

ENDED = (TrialState.FINISHED, TrialState.STOPPED)
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
    """Ended trials that can be compared: all were scored at the same rung."""

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
        if observation.state in ENDED or (known is not None and known.state in ENDED):
            self._cohorts.clear()

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
        """Trials that will still report: waiting, running or paused."""
        return tuple(o for o in self.observations if not o.state.final)

    def _in(self, state: TrialState) -> tuple[Observation, ...]:
        if state not in self._grouped:
            self._grouped[state] = tuple(o for o in self.observations if o.state is state)
        return self._grouped[state]

    def cohort(self, enough: int) -> Cohort | None:
        """The trials to learn from: those that ended with a score at the highest rung that `enough` of them reached.

        With early stopping few trials finish; until there are enough, finished and stopped ones are compared where
        both were scored. Failed and screened ones are never among them. None if no rung has enough.
        """
        if enough not in self._cohorts:
            self._cohorts[enough] = self._find_cohort(enough)
        return self._cohorts[enough]

    def _find_cohort(self, enough: int) -> Cohort | None:
        ended = [o for o in self.observations if o.state in ENDED]
        for rung in sorted({rung for o in ended for rung in o.rung_scores}, reverse=True):
            members = [o for o in ended if rung in o.rung_scores]
            if len(members) >= enough:
                return Cohort(rung, members)
        return None

    def entries(self, rung: int) -> list[Entry]:
        """What was recorded at a rung, by trial number; who failed later sets no standard for others."""
        return [
            Entry(trial=o.trial, score=o.rung_scores[rung], control=o.control is not None)
            for o in self.observations
            if rung in o.rung_scores and o.state not in FAILED
        ]
