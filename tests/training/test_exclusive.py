"""The exclusive slot with real processes: nobody is disturbed, nobody starves, and the dead hold nothing."""

import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from hybridsearch.errors import InvalidSetting
from hybridsearch.training import exclusive

PERSON = """
import os, sys, time
from pathlib import Path
from hybridsearch.training.exclusive import Slot, measuring, training

folder, part, name = Path(sys.argv[1]), sys.argv[2], sys.argv[3]
log = os.open(folder / "log", os.O_WRONLY | os.O_APPEND | os.O_CREAT)
say = lambda word: os.write(log, f"{name} {word}\\n".encode())
slot = Slot(folder)
if part == "train":
    with training(slot):
        for step in range(5000):
            say("step")
            time.sleep(0.001)
            slot.pass_turnstile()
            if (folder / "enough").exists():
                break
    say("waited" if slot.waited > 0.05 else "never waited")
elif part == "measure":
    for _ in range(3):
        say("wants")
        with measuring(slot):
            say("in")
            time.sleep(0.06)
            say("out")
        time.sleep(0.01)
elif part == "hold room":
    with training(slot):
        say("in")
        time.sleep(60)
elif part == "hold all":
    with measuring(slot):
        say("in")
        time.sleep(60)
"""


class Scene:
    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.people: list[subprocess.Popen[bytes]] = []

    def start(self, part: str, name: str) -> subprocess.Popen[bytes]:
        person = subprocess.Popen([sys.executable, "-c", PERSON, str(self.folder), part, name])
        self.people.append(person)
        return person

    def log(self) -> list[str]:
        path = self.folder / "log"
        return path.read_text().splitlines() if path.exists() else []

    def wait_for(self, line: str) -> None:
        while line not in self.log():
            assert all(person.poll() in (None, 0, -signal.SIGKILL) for person in self.people)
            time.sleep(0.005)


@pytest.fixture
def scene(tmp_path: Path) -> Iterator[Scene]:
    made = Scene(tmp_path)
    yield made
    for person in made.people:
        person.kill()
        person.wait()


def test_a_measurer_is_alone_and_gets_in_while_two_train_without_end(scene: Scene) -> None:
    trainers = [scene.start("train", name) for name in ("A", "B")]
    for name in ("A", "B"):
        scene.wait_for(f"{name} step")
    assert scene.start("measure", "M").wait() == 0
    (scene.folder / "enough").touch()
    assert [trainer.wait() for trainer in trainers] == [0, 0]
    log = scene.log()
    assert log.count("M in") == 3
    assert max(log.count("A step"), log.count("B step")) < 5000, "the measurer starved until a trainer had ended"
    for start in [index for index, line in enumerate(log) if line == "M in"]:
        assert log[start + 1] == "M out", f"somebody trained during a measurement: {log[start : start + 3]}"
    assert log[-1] in ("A waited", "B waited")


@pytest.mark.parametrize(
    ("holder", "after"), [("hold room", "measure"), ("hold all", "train"), ("hold all", "measure")]
)
def test_the_kernel_frees_the_slot_of_a_killed_process(scene: Scene, holder: str, after: str) -> None:
    first = scene.start(holder, "H")
    scene.wait_for("H in")
    (scene.folder / "enough").touch()
    second = scene.start(after, "S")
    if after == "measure":
        scene.wait_for("S wants")
    time.sleep(0.1)
    assert second.poll() is None
    assert "S in" not in scene.log()
    assert "S step" not in scene.log()
    os.kill(first.pid, signal.SIGKILL)
    assert second.wait(timeout=60) == 0


@pytest.mark.timeout(20)
def test_trainers_do_not_wait_for_each_other(tmp_path: Path) -> None:
    """Both in one thread: if either lock were exclusive, this would never end."""
    one, two = exclusive.Slot(tmp_path), exclusive.Slot(tmp_path)
    with exclusive.training(one), exclusive.training(two):
        one.pass_turnstile()
        two.pass_turnstile()
    one.close()
    two.close()


def test_what_is_queued_is_finished_before_the_room_is_left(tmp_path: Path) -> None:
    finished: list[bool] = []
    slot = exclusive.Slot(tmp_path, finish=lambda: finished.append(True))
    with exclusive.training(slot):
        slot.pass_turnstile()
        assert not finished
    assert finished == [True]
    slot.close()


def test_the_folder_is_our_own_and_nobody_elses(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    folder = exclusive.own_folder()
    assert folder.stat().st_mode & 0o777 == 0o700
    slot = exclusive.Slot()
    assert (folder / "room.lock").stat().st_mode & 0o777 == 0o600
    slot.close()
    folder.chmod(0o777)
    with pytest.raises(InvalidSetting, match="only user"):
        exclusive.own_folder()


def test_a_link_laid_in_our_way_is_not_followed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    target = tmp_path / "elsewhere"
    target.mkdir()
    (tmp_path / f"hybridsearch-{os.getuid()}").symlink_to(target)
    with pytest.raises(InvalidSetting, match="only user"):
        exclusive.Slot()
