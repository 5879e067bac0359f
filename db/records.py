"""What the store hands out: frozen records of plain values, fresh on every read, so nothing changes under a reader."""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass

from hybridsearch.errors import FailureReason
from hybridsearch.settings import EvaluationSettings
from hybridsearch.trial import Candidate, Report, TrialState


@dataclass(frozen=True, slots=True, kw_only=True)
class StudyRecord:
    """One search as it was created, and how long it has run."""

    name: str
    created: float
    """Unix time in seconds, as all times here."""
    settings_json: str
    """The resolved `settings.SearchSettings`."""
    space_json: str
    seed: int
    versions: Mapping[str, str]
    """Program and libraries that created the study."""
    evaluation_digest: str
    """What its numbers mean, see `evaluation_digest()`; empty keeps the study out of the result cache."""
    elapsed: float
    """Seconds of search so far, over all resumes."""
    owner: str | None
    """Process that runs it, `host:pid`, or none."""
    heartbeat: float | None
    """When the owner last gave a sign of life."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TrialRecord:
    """One candidate in one study, with all that was reported of it."""

    study: str
    number: int
    """0, 1, 2, ... without gaps in its study."""
    candidate: Candidate
    sampler: str
    parents: tuple[int, ...]
    """Trials of the same study that it was made from."""
    seed: int
    control: str | None
    """Name of the control architecture, if it is one."""
    note: str
    state: TrialState
    reason: FailureReason | None
    """Why it failed; none in any other state."""
    message: str
    """What was said at the last change of state."""
    created: float
    started: float | None
    """When a worker first had it."""
    ended: float | None
    """When its state became final."""
    reports: tuple[Report, ...]
    """By rung, cheapest first."""

    @property
    def seconds(self) -> float:
        """Work of the reports together, waiting left out."""
        return sum(report.seconds for report in self.reports)


@dataclass(frozen=True, slots=True, kw_only=True)
class Tally:
    """How many trials of a study are alike."""

    state: TrialState
    reason: FailureReason | None
    control: bool
    count: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Final:
    """A finished trial with some of its metrics: what a front is made of, without the rest of its reports."""

    number: int
    created: float
    ended: float
    metrics: Mapping[str, float]
    """Of all its reports, later ones first."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Event:
    """Something decided or noticed, to be recorded."""

    kind: str
    """One word, e.g. `promote`, `confirm`, `resume`; a change of state is recorded under the state's name."""
    message: str = ""
    """The reason in words."""
    trial: int | None = None
    rung: int | None = None
    rank: int | None = None
    """Rank at the rung that decided it, 0 is the front."""


@dataclass(frozen=True, slots=True, kw_only=True)
class EventRecord(Event):
    """An event as recorded."""

    id: int
    """Rises with time; `Store.events(after=id)` goes on from here."""
    time: float


def evaluation_digest(evaluation: EvaluationSettings, machine: str) -> str:
    """SHA-256 of what numbers mean: the evaluation settings and the kind of machine, e.g. `NVIDIA H100 80GB HBM3`."""
    text = json.dumps([evaluation.model_dump(mode="json"), machine], sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()
