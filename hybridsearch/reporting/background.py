"""A buffered thread that runs actions one after the other, retries them through an outage, and never raises."""

import threading
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass

from hybridsearch.reporting.mlflow_places import shown

Action = Callable[[], None]


@dataclass(frozen=True, slots=True, kw_only=True)
class Patience:
    """How long an outage is waited for."""

    pause_seconds: float = 5.0
    """Wait between two tries while the receiver does not answer."""
    close_seconds: float = 30.0
    """Longest that `close` waits for the buffer to empty."""
    most_buffered: int = 100_000
    """Actions kept; beyond that the oldest are dropped (a report is about 2 kB, so about 200 MB)."""


class Background:
    """Runs actions in order in a daemon thread.

    An action that fails is tried again. If it fails twice while the receiver answers, the action itself is at fault
    and is dropped; while the receiver is away, everything waits. The first failure is told once, through `warn`.

    Args:
        name: the thread's name.
        answers: whether the receiver is reachable; may raise, which means no.
        warn: told one line at the first failure, and one at the end if something was never recorded.
        patience: the waits.
    """

    def __init__(
        self, name: str, *, answers: Callable[[], bool], warn: Callable[[str], None], patience: Patience | None = None
    ) -> None:
        self._answers = answers
        self._warn = warn
        self._patience = patience or Patience()
        self._buffer: deque[Action] = deque()
        self._changed = threading.Condition()
        self._closing = threading.Event()
        self._warned = False
        self.dropped = 0
        self._thread = threading.Thread(target=self._run, name=name, daemon=True)
        self._thread.start()

    def submit(self, action: Action) -> None:
        """Queue an action; returns at once."""
        with self._changed:
            if len(self._buffer) >= self._patience.most_buffered:
                self._buffer.popleft()
                self.dropped += 1
            self._buffer.append(action)
            self._changed.notify()

    def close(self) -> None:
        """Run what is left, at most `close_seconds` long, and end the thread."""
        deadline = time.monotonic() + self._patience.close_seconds
        self._closing.set()
        with self._changed:
            self._changed.notify()
        self._thread.join(max(0.0, deadline - time.monotonic()))
        left = len(self._buffer) + self.dropped
        if left and self._warned:
            self._warn(f"{left} records were not written to MLflow; the search's own store is complete")

    def _run(self) -> None:
        while True:
            with self._changed:
                while not self._buffer and not self._closing.is_set():
                    self._changed.wait()
                if not self._buffer:
                    return
                action = self._buffer[0]
            done = self._attempt(action)
            with self._changed:
                if done and self._buffer and self._buffer[0] is action:
                    self._buffer.popleft()
            if not done and self._closing.wait(self._patience.pause_seconds):
                return

    def _attempt(self, action: Action) -> bool:
        """Whether the action is over: done, or dropped as hopeless."""
        for _ in range(2):
            try:
                action()
            except Exception as error:  # a mirror may fail in any way; none of them may end the search
                self._tell(error)
            else:
                return True
        try:
            alive = self._answers()
        except Exception:  # as above: not answering is an answer
            alive = False
        if alive:
            self.dropped += 1
        return alive

    def _tell(self, error: Exception) -> None:
        if not self._warned:
            self._warned = True
            lines = str(error).strip().splitlines() or [type(error).__name__]
            self._warn(f"MLflow could not record: {shown(lines[0])[:200]}; the search goes on, and this is said once")
