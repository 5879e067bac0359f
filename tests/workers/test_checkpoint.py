import dataclasses
import json
import os
from pathlib import Path
from typing import Any

import pytest
import torch

from hybridsearch.training.proxy import Snapshot
from hybridsearch.trial import Fidelity, Job, Measurement, Report
from hybridsearch.workers import checkpoint
from hybridsearch.workers.checkpoint import Folder


def job(folder: Path, **changed: Any) -> Job:
    made = Job(
        study="s", trial=1, hash="h", architecture="{}", seed=1,
        rungs=(Fidelity(rung=0, steps=1),), evaluation="{}", folder=str(folder),
    )  # fmt: skip
    return dataclasses.replace(made, **changed)


SNAPSHOT = Snapshot(
    {"0/weight/a": torch.randn(3, 4).T, "0/step/a": torch.tensor(7.0), "1/exp_avg/b": torch.zeros(0)},
    (7, 3),
    ("", "nan"),
)
REPORT = Report(
    trial=1, rung=2, steps=30, metrics={"recall": 1 / 3}, replicates={"recall": (0.1, 0.2)}, seconds=1.5, device="{}",
    measurements=(Measurement(phase="decode", context=8, batch=2, tokens_per_second=5.5, low=5, high=6, repeats=3),),
)  # fmt: skip


def test_a_snapshot_comes_back_bit_for_bit(tmp_path: Path) -> None:
    Folder(job(tmp_path)).save(SNAPSHOT)
    found = Folder(job(tmp_path)).load()
    assert found is not None
    assert (found.steps, found.lost) == (SNAPSHOT.steps, SNAPSHOT.lost)
    assert found.tensors.keys() == SNAPSHOT.tensors.keys()
    assert all(torch.equal(tensor, SNAPSHOT.tensors[name]) for name, tensor in found.tensors.items())


def test_a_report_comes_back_word_for_word(tmp_path: Path) -> None:
    Folder(job(tmp_path)).write(REPORT)
    assert Folder(job(tmp_path)).read(2) == REPORT
    assert Folder(job(tmp_path)).read(1) is None


@pytest.mark.parametrize(
    "changed", [{"seed": 2}, {"evaluation": '{"device":"cpu"}'}, {"architecture": "[]"}, {"trial": 2}, {"study": "t"}]
)
def test_what_another_run_left_counts_as_missing(tmp_path: Path, changed: dict[str, Any]) -> None:
    folder = Folder(job(tmp_path))
    folder.save(SNAPSHOT)
    folder.write(REPORT)
    other = Folder(job(tmp_path, **changed))
    assert other.load() is None
    assert other.read(2) is None


def test_damaged_files_count_as_missing(tmp_path: Path) -> None:
    folder = Folder(job(tmp_path))
    folder.save(SNAPSHOT)
    folder.write(REPORT)
    for name in ("snapshot.safetensors", "report-2.json"):
        path = tmp_path / name
        path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    assert folder.load() is None
    assert folder.read(2) is None
    (tmp_path / "report-2.json").write_text("[]")
    assert folder.read(2) is None


def test_a_failed_write_leaves_the_old_content_and_no_rest(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = Folder(job(tmp_path))
    folder.save(SNAPSHOT)

    def full(_: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space left"):
        folder.save(Snapshot({"0/weight/a": torch.ones(2)}, (9, 9), ("", "")))
    found = folder.load()
    assert found is not None
    assert found.steps == (7, 3)
    assert [path.name for path in tmp_path.iterdir()] == ["snapshot.safetensors"]


def test_nothing_is_unpickled(tmp_path: Path) -> None:
    folder = Folder(job(tmp_path))
    folder.save(SNAPSHOT)
    size = int.from_bytes((tmp_path / checkpoint.SNAPSHOT).read_bytes()[:8], "little")
    header = json.loads((tmp_path / checkpoint.SNAPSHOT).read_bytes()[8 : 8 + size])
    assert json.loads(header["__metadata__"]["run"])["steps"] == [7, 3]


def test_a_dropped_snapshot_is_gone_and_can_be_dropped_twice(tmp_path: Path) -> None:
    folder = Folder(job(tmp_path))
    folder.save(SNAPSHOT)
    folder.drop_snapshot()
    folder.drop_snapshot()
    assert folder.load() is None
