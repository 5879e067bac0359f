"""One exclusive slot a machine: many may train in the room together, one measures in it alone.

Two files locked with flock(2). Whoever trains stands in the *room* with a shared lock. Whoever wants to measure first
closes the *turnstile* (exclusive), then waits until the room is empty. Everybody who trains tries the turnstile
every few steps: while it is closed they leave the room and queue before it, so that a measurer waits at most a few
steps and cannot be starved, however many train. The kernel frees the locks of a process that dies.

The slot serves the processes of one user on one machine: the files lie in a folder of that user's own under the
temporary folder.
"""

import fcntl
import os
import stat
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from hybridsearch.errors import InvalidSetting


def nothing() -> None:
    """What there is to finish before leaving the room, on a device that works in step with Python."""


class Slot:
    """This process's view of the machine's slot.

    Args:
        folder: where the lock files lie; none means the user's own folder under the temporary folder.
        finish: called before the room is left, e.g. to wait for a GPU's queue.

    Attributes:
        waited: seconds spent waiting so far.

    Raises:
        InvalidSetting: the folder belongs to somebody else, or others may write in it.
    """

    def __init__(self, folder: Path | None = None, *, finish: Callable[[], None] = nothing) -> None:
        folder = own_folder() if folder is None else folder
        self.waited = 0.0
        self._finish = finish
        self._turnstile = _open(folder / "turnstile.lock")
        self._room = _open(folder / "room.lock")

    def pass_turnstile(self) -> None:
        """Call every few steps inside `training`: lets a waiting measurer go first."""
        try:
            fcntl.flock(self._turnstile, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            self._finish()
            fcntl.flock(self._room, fcntl.LOCK_UN)
            self._enter()
        else:
            fcntl.flock(self._turnstile, fcntl.LOCK_UN)

    def close(self) -> None:
        """Give the files (and any lock on them) back."""
        for file in (self._turnstile, self._room):
            with suppress(OSError):
                os.close(file)

    def _enter(self) -> None:
        self._lock(self._turnstile, fcntl.LOCK_SH)
        try:
            self._lock(self._room, fcntl.LOCK_SH)
        finally:
            fcntl.flock(self._turnstile, fcntl.LOCK_UN)

    def _lock(self, file: int, kind: int) -> None:
        started = time.monotonic()
        try:
            fcntl.flock(file, kind)
        finally:
            self.waited += time.monotonic() - started


@contextmanager
def training(slot: Slot) -> Iterator[None]:
    """Work beside others; nobody measures meanwhile unless `Slot.pass_turnstile` let them."""
    slot._enter()
    try:
        yield
    finally:
        slot._finish()
        fcntl.flock(slot._room, fcntl.LOCK_UN)


@contextmanager
def measuring(slot: Slot) -> Iterator[None]:
    """Work alone on this machine. Not inside `training`: leaving here would also take that lock away."""
    slot._lock(slot._turnstile, fcntl.LOCK_EX)
    try:
        slot._lock(slot._room, fcntl.LOCK_EX)
        try:
            yield
        finally:
            fcntl.flock(slot._room, fcntl.LOCK_UN)
    finally:
        fcntl.flock(slot._turnstile, fcntl.LOCK_UN)


def own_folder() -> Path:
    """`hybridsearch-<user id>` under the temporary folder, made for this user alone.

    Raises:
        InvalidSetting: something of that name is not a folder that only this user may write in.
    """
    folder = Path(tempfile.gettempdir()) / f"hybridsearch-{os.getuid()}"
    with suppress(FileExistsError):
        folder.mkdir(mode=0o700)
    found = folder.lstat()
    if not stat.S_ISDIR(found.st_mode) or found.st_uid != os.getuid() or found.st_mode & 0o022:
        raise InvalidSetting(
            f"{folder} is not a folder that only user {os.getuid()} may write in; remove it, or set TMPDIR"
        )
    return folder


def _open(path: Path) -> int:
    """The lock file, made if missing, never through a link that somebody else may have laid there."""
    return os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
