"""The seam between a search and whatever mirrors it: a `Reporter` hears events, and can never stop the search."""

from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Literal, Protocol

from hybridsearch.objectives import Objective
from hybridsearch.reporting.points import Point
from hybridsearch.trial import Candidate, Report, TrialState

Ending = Literal["finished", "interrupted", "failed"]
Load = Callable[[], Sequence[Point]]
"""Gives points when they are wanted: of a large study there are too many to be given with every event."""


class Reporter(Protocol):
    """Hears what happens, in order, from one thread. No method waits and none raises.

    Every event may be told again after a resume: what is known already is not recorded twice.
    """

    def study_started(
        self,
        study: str,
        settings_yaml: str,
        objectives: Sequence[Objective],
        controls: Mapping[str, Candidate],
        *,
        resumed: bool,
    ) -> None:
        """A search begins, or goes on (`resumed`); `settings_yaml` is resolved, with every default written out."""

    def trial_started(self, number: int, candidate: Candidate, tags: Mapping[str, str]) -> None:
        """A trial exists; `tags` hold e.g. its sampler, parents, seed and control."""

    def trial_reopened(self, number: int) -> None:
        """A trial has not ended, whatever was told before; nothing if no end was told."""

    def rung(self, number: int, report: Report, decision: str) -> None:
        """A trial reached a rung, and why it goes on or ends there."""

    def trial_ended(self, number: int, state: TrialState, reason: str, *, on_front: bool) -> None:
        """A trial is in a final state, or paused until the search is resumed."""

    def front_changed(
        self, points: Load, front: Collection[int], hypervolume: float, step: int, seconds: float
    ) -> None:
        """The front after `step` finished trials and `seconds` of search.

        `points` loads all finished trials, from any thread; `front` are the numbers of those on the front now.
        """

    def study_ended(self, ending: Ending, points: Sequence[Point], exports: Mapping[str, str]) -> None:
        """The search ends; `exports` are the front's architectures as file name -> text."""

    def close(self) -> None:
        """Write out what is still buffered, within bounded time."""


class NullReporter:
    """Hears everything, records nothing."""

    def study_started(
        self,
        study: str,
        settings_yaml: str,
        objectives: Sequence[Objective],
        controls: Mapping[str, Candidate],
        *,
        resumed: bool,
    ) -> None:
        """Nothing."""

    def trial_started(self, number: int, candidate: Candidate, tags: Mapping[str, str]) -> None:
        """Nothing."""

    def trial_reopened(self, number: int) -> None:
        """Nothing."""

    def rung(self, number: int, report: Report, decision: str) -> None:
        """Nothing."""

    def trial_ended(self, number: int, state: TrialState, reason: str, *, on_front: bool) -> None:
        """Nothing."""

    def front_changed(
        self, points: Load, front: Collection[int], hypervolume: float, step: int, seconds: float
    ) -> None:
        """Nothing."""

    def study_ended(self, ending: Ending, points: Sequence[Point], exports: Mapping[str, str]) -> None:
        """Nothing."""

    def close(self) -> None:
        """Nothing."""
