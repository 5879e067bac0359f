"""What samplers and the scheduler may know of a study: its trials by number, each with what counts of its scores.

Only a finished trial has a score. A stopped one carries the scores of the rungs it reached, a failed or screened one
nothing: a broken architecture that "needs" almost no time must never look good (it would draw the whole search).
"""

from collections.abc import Iterable, Mapping, Sequence, Set
from dataclasses import dataclass, field

from hybridsearch.errors import InvalidSetting
from hybridsearch.objectives import Score
from hybridsearch.pareto.crowding import ranking
from hybridsearch.trial import TrialState

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
    """Score at each rung reached so far, by the objectives' rung metrics below the last rung."""
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


class History:
    """The trials of one study, always in the order of their numbers, however late their results arrive."""

    def __init__(self, observations: Iterable[Observation] = ()) -> None:
        self._by_number: dict[int, Observation] = {}
        self._hashes: dict[str, int] = {}
        self._ordered: tuple[Observation, ...] | None = ()
        self._grouped: dict[TrialState, tuple[Observation, ...]] = {}
        self._best: tuple[int, list[Observation]] | None = None
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
        if TrialState.FINISHED in (observation.state, known.state if known is not None else None):
            self._best = None

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

    def best(self, count: int) -> list[Observation]:
        """The leading finished trials: by rank (constraints first), then the roomier, then the earlier."""
        if self._best is None or self._best[0] < count:
            finished = self.finished
            scores = [o.score for o in finished if o.score is not None]
            self._best = (count, [finished[index] for index in leaders(scores, count)])
        return self._best[1][:count]

    def entries(self, rung: int) -> list[Entry]:
        """What was recorded at a rung, by trial number; who failed later sets no standard for others."""
        return [
            Entry(trial=o.trial, score=o.rung_scores[rung], control=o.control is not None)
            for o in self.observations
            if rung in o.rung_scores and o.state not in FAILED
        ]


def leaders(scores: Sequence[Score], count: int) -> list[int]:
    """Indices of the `count` best scores, best first."""
    if not scores:
        return []
    order = ranking([s.minimised for s in scores], [s.violation for s in scores], enough=count).order
    return [int(index) for index in order[:count]]
