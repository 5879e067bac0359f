"""kill -9 of the controller at random moments of one search, over and over: nothing is lost, nothing is done twice.

Four simulated workers have trials under way at every kill; the resumed search ends at the same trials, times and front.
`HYBRIDSEARCH_KILLS=50 pytest tests/faults` is the whole drill; in the usual tests there are fewer kills.
"""

import os
import random
import signal
import socket
import time
from collections import Counter
from collections.abc import Callable
from typing import Any

import pytest

from hybridsearch.db.store import Store
from hybridsearch.trial import TrialState

KILLS = int(os.environ.get("HYBRIDSEARCH_KILLS", "3"))


@pytest.mark.timeout(60 * KILLS + 240)
def test_nothing_is_lost_or_done_twice(drill: Any, undisturbed: list[Any], outcome: Callable[..., list[Any]]) -> None:
    rng = random.Random(1)
    process = drill.start("killed", "search", "drill.yaml")
    killed = 0
    while killed < KILLS and process.poll() is None:
        before = drill.ended("killed")
        drill.wait_for("killed", process, len(before))
        time.sleep(rng.uniform(0.0, 0.1))
        process.send_signal(signal.SIGKILL)
        if process.wait() == -signal.SIGKILL:
            killed += 1
        kept = drill.ended("killed")
        assert all(kept.get(number) == trial for number, trial in before.items()), "an ended trial has changed"
        process = drill.start("killed", "resume", "drill")
    found = drill.finish("killed", process)
    assert killed == KILLS, f"the search was over after {killed} kills; give it more trials"

    assert outcome(found) == undisturbed
    assert Counter(t.state for t in found.values())[TrialState.FINISHED] > 10
    with Store.open(f"sqlite:///{drill.folder('killed')}/runs/hybridsearch.db", create=False) as store:
        ends = Counter(event.trial for event in store.events("drill") if event.kind in ("finished", "stopped"))
    assert set(ends.values()) == {1}


def test_a_second_controller_is_refused_with_the_owners_name(drill: Any) -> None:
    first = drill.start("owned", "search", "drill.yaml", "--budget", "590trials")
    drill.wait_for("owned", first, 0)
    second = drill.start("owned", "resume", "drill")
    code, alive = second.wait(120), first.poll() is None
    first.kill()
    first.wait()
    assert alive, "the first was over too soon to be in the way"
    assert code == 2
    (said,) = [line for line in (drill.folder("owned") / "log.txt").read_text().splitlines() if "is run by" in line]
    assert f"study `drill` is run by {socket.gethostname()}:{first.pid}, last seen " in said
