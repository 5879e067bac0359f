"""Whatever goes wrong inside a trial becomes one `TrialFailure` with a reason and one line of text."""

import errno
import traceback
from collections.abc import Iterator
from contextlib import contextmanager

import torch

from hybridsearch.errors import FailureReason, HybridSearchError, TrialFailure, TrialPaused

OUT_OF_MEMORY = ("out of memory", "not enough memory", "can't allocate memory", "cannot allocate memory",
                 "cublas_status_alloc_failed")  # fmt: skip
"""How PyTorch's allocators (CUDA, cuBLAS, CPU on Linux, macOS and Windows) say it in a plain RuntimeError."""
KERNEL = ("cuda error", "triton error", "cudnn error", "cublas_status", "hip error", "device-side assert")
LONGEST = 300
"""Letters of a message that is stored and shown."""


@contextmanager
def guarded() -> Iterator[None]:
    """Run a trial's work.

    Raises:
        TrialFailure: for every exception inside but `TrialPaused`. Out of memory, what it held is let go.
    """
    try:
        yield
    except (TrialFailure, TrialPaused):
        raise
    except Exception as error:
        failure = failure_of(error)
        if failure.reason is FailureReason.OUT_OF_MEMORY:
            _let_go(error)
            raise failure from None
        raise failure from error


def failure_of(error: BaseException) -> TrialFailure:
    """The failure that stands for an exception."""
    if isinstance(error, TrialFailure):
        return error
    return TrialFailure(_reason(error), _one_line(error))


def _reason(error: BaseException) -> FailureReason:
    text = str(error).lower()
    if isinstance(error, MemoryError | torch.OutOfMemoryError):
        return FailureReason.OUT_OF_MEMORY
    if isinstance(error, TimeoutError):
        return FailureReason.TIMED_OUT
    if isinstance(error, OSError) and error.errno == errno.ENOMEM:
        return FailureReason.OUT_OF_MEMORY
    if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
        return FailureReason.DISK_FULL
    if isinstance(error, FloatingPointError):
        return FailureReason.NOT_A_NUMBER
    if type(error).__module__.split(".")[0] == "triton":
        return FailureReason.KERNEL
    if isinstance(error, RuntimeError):
        if any(words in text for words in OUT_OF_MEMORY):
            return FailureReason.OUT_OF_MEMORY
        if any(words in text for words in KERNEL):
            return FailureReason.KERNEL
    return FailureReason.ERROR


def _one_line(error: BaseException) -> str:
    """Kind and first line of text, as a person would quote it; our own errors are sentences already."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    text = lines[0] if lines else ""
    if not isinstance(error, HybridSearchError):
        text = f"{type(error).__name__}: {text}" if text else type(error).__name__
    return text if len(text) <= LONGEST else f"{text[: LONGEST - 3]}..."


def _let_go(error: BaseException) -> None:
    """Drop the tensors that the frames of a traceback still hold, and give the cache back to the device."""
    current: BaseException | None = error
    while current is not None:
        traceback.clear_frames(current.__traceback__)
        current = current.__cause__ or current.__context__
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
