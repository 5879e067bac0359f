import errno
import gc
import weakref

import pytest
import torch

from hybridsearch.errors import FailureReason, InvalidArchitecture, TrialFailure, TrialPaused
from hybridsearch.workers.guard import guarded

TritonError = type("CompilationError", (Exception,), {"__module__": "triton.compiler.errors"})


@pytest.mark.parametrize(
    ("error", "reason"),
    [
        (torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20 GiB\nSee docs"), FailureReason.OUT_OF_MEMORY),
        (MemoryError(), FailureReason.OUT_OF_MEMORY),
        (OSError(errno.ENOMEM, "Cannot allocate memory"), FailureReason.OUT_OF_MEMORY),
        (RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling"), FailureReason.OUT_OF_MEMORY),
        (RuntimeError("CUDA error: an illegal memory access was encountered"), FailureReason.KERNEL),
        (TritonError("at 3:4"), FailureReason.KERNEL),
        (FloatingPointError("overflow"), FailureReason.NOT_A_NUMBER),
        (TimeoutError("too late"), FailureReason.TIMED_OUT),
        (OSError(errno.ENOSPC, "No space left on device"), FailureReason.DISK_FULL),
        (PermissionError(errno.EACCES, "Permission denied"), FailureReason.ERROR),
        (KeyError("x"), FailureReason.ERROR),
    ],
)
def test_every_error_becomes_one_line_with_a_reason(error: Exception, reason: FailureReason) -> None:
    with pytest.raises(TrialFailure) as caught, guarded():
        raise error
    assert caught.value.reason is reason
    assert "\n" not in str(caught.value)
    assert str(caught.value).startswith(type(error).__name__)


def test_what_the_cpu_allocator_really_says_is_recognised() -> None:
    with pytest.raises(TrialFailure) as caught, guarded():
        torch.empty(2**60, dtype=torch.uint8)
    assert caught.value.reason is FailureReason.OUT_OF_MEMORY


def test_out_of_memory_lets_go_of_what_the_trial_held() -> None:
    held: list[weakref.ref[torch.Tensor]] = []

    def work() -> None:
        tensor = torch.zeros(3)
        held.append(weakref.ref(tensor))
        raise MemoryError

    with pytest.raises(TrialFailure) as caught, guarded():
        work()
    gc.collect()
    assert caught.value.__cause__ is None
    assert held[0]() is None


def test_our_own_sentences_stay_as_they_are_and_long_texts_are_cut() -> None:
    with pytest.raises(TrialFailure, match=r"^width 7 is odd$"), guarded():
        raise InvalidArchitecture("width 7 is odd")
    with pytest.raises(TrialFailure) as caught, guarded():
        raise RuntimeError("x" * 5000)
    assert len(str(caught.value)) == 300


def test_failures_pauses_and_interrupts_pass_through() -> None:
    failure = TrialFailure(FailureReason.TIMED_OUT, "late")
    with pytest.raises(TrialFailure) as caught, guarded():
        raise failure
    assert caught.value is failure
    with pytest.raises(TrialPaused), guarded():
        raise TrialPaused("drain")
    with pytest.raises(KeyboardInterrupt), guarded():
        raise KeyboardInterrupt
