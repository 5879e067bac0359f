"""The words that cross layers: candidate, fidelity, job, report, measurement, and the states of a trial.

Everything here is frozen and made of plain values, so that a record read from the store or sent to a worker
cannot change under its reader. An architecture is named by its canonical JSON and its hash.
"""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Literal

from hybridsearch.errors import FailureReason


class TrialState(StrEnum):
    """Where a trial stands. The last four are final."""

    WAITING = "waiting"
    """Recorded; no worker has it yet."""
    RUNNING = "running"
    """A worker has it (after a crash of the controller: had it)."""
    PAUSED = "paused"
    """Drained with a checkpoint; goes on when the search is resumed."""
    FINISHED = "finished"
    """Reached the last rung: the only state whose scores may enter the front."""
    STOPPED = "stopped"
    """Ended at a rung by early stopping."""
    SCREENED = "screened"
    """Broke a constraint that needs no training; never ran."""
    FAILED = "failed"
    """Ended by a failure; `FailureReason` says which."""

    @property
    def final(self) -> bool:
        """Whether a trial in this state will never run again (a stopped one may, if its search gets more to do)."""
        return self in (TrialState.FINISHED, TrialState.STOPPED, TrialState.SCREENED, TrialState.FAILED)


@dataclass(frozen=True, slots=True, kw_only=True)
class Candidate:
    """An architecture by content, with what can be counted without training it."""

    hash: str
    """SHA-256 of `canonical`, in hex; the first 8 digits are shown to people."""
    canonical: str
    """Canonical JSON of the architecture."""
    name: str
    """Short readable name, e.g. `gdn6.full2-3f9a01bc`."""
    parameters: int
    """Trainable parameters without the embedding, so that they do not depend on the task's vocabulary."""
    state_bytes: int
    """Decode memory of one sequence at the study's longest measured context."""
    flops_per_token: int
    """Forward FLOPs of one decoded token at that context, without the output head."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Fidelity:
    """How much work one rung spends on a trial."""

    rung: int
    """0 is the cheapest."""
    steps: int
    """Optimiser steps from the start of training to this rung."""
    seeds: int | None = None
    """Replicates per learning rate that are trained to this rung; none means as many as the training settings say."""
    learning_rates: int | None = None
    """Learning rates that are trained to this rung; none means all."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Measurement:
    """Throughput of one phase at one shape, measured while nothing else trained on the machine."""

    phase: Literal["prefill", "decode"]
    context: int
    """Tokens of the prompt (prefill), or tokens already in memory (decode)."""
    batch: int
    tokens_per_second: float
    """Median over the repeats, all sequences of the batch together."""
    low: float
    """First quartile of the repeats, tokens/s."""
    high: float
    """Third quartile of the repeats, tokens/s."""
    repeats: int

    @property
    def key(self) -> str:
        """The metric's name, e.g. `decode_tokens_per_second/4096x8` (context x batch)."""
        return f"{self.phase}_tokens_per_second/{self.context}x{self.batch}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Job:
    """What a worker needs to run one trial, or the rest of it."""

    study: str
    trial: int
    """Number of the trial in its study."""
    hash: str
    architecture: str
    """Canonical JSON."""
    seed: int
    """Root of the trial's own random streams."""
    rungs: tuple[Fidelity, ...]
    """Rungs still to reach, cheapest first; each yields one report."""
    evaluation: str
    """`settings.EvaluationSettings` as JSON."""
    folder: str
    """The trial's own folder: its checkpoints, and nothing of another trial. A file `drain` two folders up
    (in the study's) asks the worker to put down its work."""
    timeout_seconds: float = 3600.0
    """Longest time from one report to the next."""
    share: float = 1.0
    """Of what a worker usually has: more for a trial that ran out of memory."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Report:
    """What a worker says of a trial on reaching a rung."""

    trial: int
    rung: int
    steps: int
    metrics: Mapping[str, float]
    """Finite numbers by name, e.g. `recall`, `recall/128x8`, `answer_loss`, `cache_bytes`."""
    replicates: Mapping[str, tuple[float, ...]] = field(default_factory=dict)
    """Per metric, one value for each seed of the chosen learning rate."""
    measurements: tuple[Measurement, ...] = ()
    seconds: float = 0.0
    """Wall-clock work since the previous report, waiting for an exclusive slot left out."""
    device: str = ""
    """Machine and versions that gave these numbers."""
    peak_bytes: int = 0
    """Peak memory of the device while training; 0 where it cannot be read (CPU)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Failure:
    """What a worker says instead of a report."""

    trial: int
    reason: FailureReason
    message: str


Evaluator = Callable[[Job], Iterator[Report]]
"""Runs a job, yields one report a rung, raises `errors.TrialFailure`: real training, table replay and test fakes."""
