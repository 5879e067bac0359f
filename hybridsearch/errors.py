"""Every error that a user can meet, as one tree; each text says what is wrong, what was found, the rule and the remedy.

HybridSearchError                exit code 2
|-- InvalidFile                  a file that breaks its schema: path, line and key are in the text
|-- InvalidSetting               a value from the command line or a call
|-- InvalidArchitecture          a description whose numbers do not fit each other
|-- Infeasible                   exit code 3: no architecture of the space meets the constraints
|-- UnknownStudy                 no study of that name in the store
|-- StoreUnavailable             database or folder: missing, read-only, full, damaged or locked
|-- ClusterUnreachable           no Ray cluster at that address
|-- TrialPaused                  a trial has put down its work with a checkpoint, because it was asked to
`-- TrialFailure                 ends one trial, never the search
"""

from enum import StrEnum


class FailureReason(StrEnum):
    """Why a trial failed."""

    OUT_OF_MEMORY = "out of memory"
    NOT_A_NUMBER = "not a number"
    TIMED_OUT = "timed out"
    WORKER_LOST = "worker lost"
    SLOW_WORKER = "slow worker"
    KERNEL = "kernel failure"
    DISK_FULL = "disk full"
    ERROR = "error"


class HybridSearchError(Exception):
    """Base of all errors shown to a user as one line, without a traceback."""

    exit_code = 2


class InvalidFile(HybridSearchError):
    """A YAML, JSON or text file that cannot be read or breaks its schema."""


class InvalidSetting(HybridSearchError):
    """A value given on the command line, or to a function, that is out of its range."""


class InvalidArchitecture(HybridSearchError):
    """An architecture whose numbers do not fit each other."""


class Infeasible(HybridSearchError):
    """No architecture of the space meets the constraints."""

    exit_code = 3


class UnknownStudy(HybridSearchError):
    """The store holds no study of that name."""


class StoreUnavailable(HybridSearchError):
    """The database or its folder cannot be used: missing, read-only, full, damaged or locked."""


class ClusterUnreachable(HybridSearchError):
    """No Ray cluster answers at the address."""


class TrialPaused(HybridSearchError):
    """A trial was asked to put down its work, and has, with a checkpoint."""


class TrialFailure(HybridSearchError):
    """What ended one trial; the search goes on.

    Attributes:
        reason: the kind of failure, stored beside the trial.
    """

    def __init__(self, reason: FailureReason, message: str) -> None:
        super().__init__(message)
        self.reason = reason
