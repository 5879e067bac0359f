"""How trials come about: controls first, then what the sampler proposes and no counted constraint turns down."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from hybridsearch import seeds
from hybridsearch.control import budget
from hybridsearch.control.candidates import NewTrial, describe, screen
from hybridsearch.control.forecast import Forecast
from hybridsearch.control.ledger import Ledger
from hybridsearch.control.places import Places
from hybridsearch.errors import Infeasible
from hybridsearch.search.choice import choose
from hybridsearch.search.proposals import Request
from hybridsearch.search.samplers import SAMPLERS
from hybridsearch.search_spaces.space import Space
from hybridsearch.settings import SearchSettings
from hybridsearch.spec.architecture import Architecture

MOST_SCREENED = 1000
"""Proposals in a row that the constraints may turn down before the search counts as infeasible."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """What a search is made of."""

    settings: SearchSettings
    space: Space
    source: Mapping[str, Any]
    """The space as it was written."""
    controls: Mapping[str, Architecture]
    """Architectures that run first in every search, by name."""
    places: Places


class Proposer:
    """Records new trials of one study; `spent` says what it has used of its budget."""

    def __init__(self, plan: Plan, ledger: Ledger, spent: Callable[[], budget.Spent]) -> None:
        self._plan = plan
        self._spent = spent
        self._ledger = ledger
        self._exhausted = False
        settings = plan.settings
        self._sampler, self._why = choose(settings.sampler, plan.space, settings.budget.trials)
        self._forecast = Forecast(settings.constraint_list, settings.screen_error)
        self._told = settings.sampler != "auto"
        self._context = plan.settings.evaluation.throughput.contexts[-1]

    def over(self) -> bool:
        """Whether there will be no further trial."""
        return self._exhausted or (
            not self.controls_left and budget.exhausted(self._plan.settings.budget, self._spent()) is not None
        )

    @property
    def controls_left(self) -> list[str]:
        """Controls that have not run yet."""
        return [name for name in self._plan.controls if name not in self._ledger.controls]

    def new_trial(self) -> int | None:
        """Number of a new trial that has to run, or none: the budget is spent or the space is exhausted.

        Raises:
            Infeasible: the space, or the constraints, leave nothing to try.
        """
        reason = ""
        for _ in range(MOST_SCREENED):
            new = self._control() or self._proposed()
            if new is None:
                if reason and self._exhausted and not self._ledger.counted:
                    break
                return None
            # Controls are yardsticks: one that breaks a constraint runs, and is kept off the front.
            broken = None if new.control else self._broken(new)
            if broken is None:
                number = self._ledger.add(new)
                if not self._ledger.state(number).final:
                    return number
            else:
                reason = broken
                self._ledger.screened(new, reason)
        raise Infeasible(f"no proposal meets the constraints, the last one: {reason}; loosen them or change the space")

    def _broken(self, new: NewTrial) -> str | None:
        """The constraint that the candidate breaks by its counts, or as far as throughput can be foretold."""
        counted = screen(new.architecture, new.candidate, self._plan.settings.constraint_list)
        return counted or self._forecast.screen(new.architecture, self._ledger)

    def _control(self) -> NewTrial | None:
        left = self.controls_left
        if not left:
            return None
        architecture = self._plan.controls[left[0]]
        return self._trial(architecture, sampler="control", parents=(), control=left[0])

    def _proposed(self) -> NewTrial | None:
        settings = self._plan.settings
        if self._exhausted or budget.exhausted(settings.budget, self._spent()):
            return None
        request = Request(
            space=self._plan.space,
            objectives=settings.objective_list,
            seed=settings.seed,
            number=self._ledger.next_number,
        )
        if not self._told:
            self._told = True
            self._ledger.note("sampler", f"{self._sampler}: {self._why}")
        proposals = SAMPLERS[self._sampler](self._ledger.history, request)
        if not proposals:
            self._exhausted = True
            self._ledger.note("exhausted", "every architecture of the space that the sampler can find was tried")
            return None
        first = proposals[0]
        return self._trial(first.architecture, sampler=first.sampler, parents=first.parents, control=None)

    def _trial(
        self, architecture: Architecture, *, sampler: str, parents: tuple[int, ...], control: str | None
    ) -> NewTrial:
        return NewTrial(
            architecture=architecture,
            candidate=describe(architecture, self._context),
            sampler=sampler,
            parents=parents,
            control=control,
            seed=seeds.derive(self._plan.settings.seed, "trial", self._ledger.next_number),
        )
