"""A database that another program keeps locked while a whole search runs."""

import sqlite3
import time
from collections.abc import Callable
from typing import Any

HELD_SECONDS = 2.0


def test_a_lock_of_some_seconds_is_waited_for(
    drill: Any, undisturbed: list[Any], outcome: Callable[..., list[Any]]
) -> None:
    process = drill.start("locked", "search", "drill.yaml")
    drill.wait_for("locked", process, 5)
    holder = sqlite3.connect(drill.folder("locked") / "runs" / "hybridsearch.db", isolation_level=None, timeout=30)
    holder.execute("BEGIN IMMEDIATE")
    before = drill.ended("locked")
    time.sleep(HELD_SECONDS)
    assert drill.ended("locked") == before, "nothing can be written, and everything be read"
    assert process.poll() is None
    holder.execute("ROLLBACK")
    holder.close()
    assert outcome(drill.finish("locked", process)) == undisturbed
