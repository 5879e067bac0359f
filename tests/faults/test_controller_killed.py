"""kill -9 of the controller at random moments of one search, over and over: nothing is lost, nothing is done twice.

Four simulated workers have trials under way at every kill; the resumed search ends at the same trials, times and front.

`HYBRIDSEARCH_KILLS=50 pytest tests/faults` is the whole drill; in the usual tests there are fewer kills.
"""

import os
import random
import signal
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

from hybridsearch.db.store import Store
from hybridsearch.errors import StoreUnavailable, UnknownStudy
from hybridsearch.trial import TrialState

KILLS = int(os.environ.get("HYBRIDSEARCH_KILLS", "4"))
SECONDS = 120
Start = Callable[..., Any]


def trials(folder: Path) -> dict[int, Any]:
    """The trials that ended, by number; none before there is a study."""
    try:
        with Store.open(f"sqlite:///{folder}/runs/hybridsearch.db", create=False) as store:
            return {t.number: t for t in store.trials("drill") if t.state.final}
    except (StoreUnavailable, UnknownStudy):
        return {}


def wait_for_progress(folder: Path, process: Any, known: int) -> None:
    """Until the search has ended one more trial than were known, or is over."""
    limit = time.monotonic() + SECONDS
    while process.poll() is None and len(trials(folder)) <= known:
        assert time.monotonic() < limit, (folder / "log.txt").read_text()
        time.sleep(0.01)


def outcome(ended: dict[int, Any]) -> list[tuple[Any, ...]]:
    """What a search proposed, measured and decided, and how long after its begin."""
    begin = ended[0].created
    return [
        (t.number, t.candidate.hash, t.sampler, t.parents, t.state, t.message, t.reports, (t.ended or 0.0) - begin)
        for t in ended.values()
    ]


def test_nothing_is_lost_or_done_twice(start: Start, tmp_path: Path) -> None:
    whole = start("undisturbed", "search", "drill.yaml")
    rng = random.Random(1)
    folder = tmp_path / "killed"
    process = start("killed", "search", "drill.yaml")
    killed = 0
    while killed < KILLS and process.poll() is None:
        before = trials(folder)
        wait_for_progress(folder, process, len(before))
        time.sleep(rng.uniform(0.0, 0.1))
        process.send_signal(signal.SIGKILL)
        if process.wait() == -signal.SIGKILL:
            killed += 1
        kept = trials(folder)
        assert all(kept.get(number) == trial for number, trial in before.items()), "an ended trial has changed"
        process = start("killed", "resume", "drill")
    assert process.wait(SECONDS) == 0, (folder / "log.txt").read_text()
    assert killed == KILLS, f"the search was over after {killed} kills; give it more trials"

    assert whole.wait(SECONDS) == 0, (tmp_path / "undisturbed" / "log.txt").read_text()
    expected, found = trials(tmp_path / "undisturbed"), trials(folder)
    assert outcome(found) == outcome(expected)
    assert Counter(t.state for t in found.values())[TrialState.FINISHED] > 10
    with Store.open(f"sqlite:///{folder}/runs/hybridsearch.db", create=False) as store:
        ends = Counter(event.trial for event in store.events("drill") if event.kind in ("finished", "stopped"))
    assert set(ends.values()) == {1}
