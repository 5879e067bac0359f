"""What the controller keeps of a trial that may still run."""

from dataclasses import dataclass

from hybridsearch.db.records import TrialRecord
from hybridsearch.trial import Candidate, Report, TrialState


@dataclass(frozen=True, slots=True, kw_only=True)
class Active:
    """A trial as far as running it, and deciding on it, asks."""

    number: int
    candidate: Candidate
    seed: int
    sampler: str
    parents: tuple[int, ...]
    control: str | None
    state: TrialState
    reports: tuple[Report, ...]
    """By rung, cheapest first."""

    @classmethod
    def of(cls, trial: TrialRecord) -> "Active":
        """The same of a record."""
        return cls(
            number=trial.number,
            candidate=trial.candidate,
            seed=trial.seed,
            sampler=trial.sampler,
            parents=trial.parents,
            control=trial.control,
            state=trial.state,
            reports=trial.reports,
        )
