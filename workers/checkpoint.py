"""A trial's folder: the latest snapshot of its training, and the reports it has made.

`snapshot.safetensors` holds all tensors, and in its header, as JSON, everything else, so that one atomic rename
replaces both. `report-<rung>.json` is written before a report is handed out; a job that is started again repeats
the report word for word. Each file carries the fingerprint of the run that wrote it, and files of another run (or
damaged ones) count as missing. Nothing is unpickled.
"""

import dataclasses
import hashlib
import json
import os
from contextlib import suppress
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open
from safetensors.torch import save

from hybridsearch.training.proxy import Snapshot
from hybridsearch.trial import Job, Measurement, Report

FORMAT = 1
SNAPSHOT = "snapshot.safetensors"


class Folder:
    """The files of one job; a `training.proxy.Keeper`.

    Raises:
        OSError: from `save` and `write`, e.g. when the disk is full; the files before stay whole.
    """

    def __init__(self, job: Job) -> None:
        self._path = Path(job.folder)
        self._path.mkdir(parents=True, exist_ok=True)
        self._fingerprint = fingerprint(job)

    def load(self) -> Snapshot | None:
        """The latest snapshot of this run, on the CPU, or none."""
        try:
            with safe_open(self._path / SNAPSHOT, framework="pt", device="cpu") as file:
                header = (file.metadata() or {}).get("run", "{}")
                facts = json.loads(header)
                if facts.get("fingerprint") != self._fingerprint:
                    return None
                tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - no mapping
                return Snapshot(tensors, tuple(facts["steps"]), tuple(facts["lost"]))
        except (FileNotFoundError, SafetensorError, ValueError, KeyError):
            return None

    def save(self, snapshot: Snapshot) -> None:
        """Replace the latest snapshot."""
        facts = {"fingerprint": self._fingerprint, "steps": snapshot.steps, "lost": snapshot.lost}
        tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in snapshot.tensors.items()}
        write_whole(self._path / SNAPSHOT, save(tensors, {"run": json.dumps(facts)}))

    def read(self, rung: int) -> Report | None:
        """The report this run has already made of a rung, or none."""
        try:
            facts = json.loads(self._report(rung).read_text(encoding="utf-8"))
            if facts.pop("fingerprint") != self._fingerprint:
                return None
            return _report(facts)
        except (FileNotFoundError, ValueError, KeyError, TypeError):
            return None

    def write(self, report: Report) -> None:
        """Keep a report, before anybody is told of it."""
        facts = {"fingerprint": self._fingerprint, **dataclasses.asdict(report)}
        write_whole(self._report(report.rung), json.dumps(facts, indent=1).encode())

    def drop_snapshot(self) -> None:
        """Free the disk: nothing is left to train."""
        with suppress(FileNotFoundError):
            (self._path / SNAPSHOT).unlink()

    def _report(self, rung: int) -> Path:
        return self._path / f"report-{rung}.json"


def fingerprint(job: Job) -> str:
    """What a snapshot belongs to: architecture, settings of the evaluation, seed, and the format of the files."""
    parts = (FORMAT, job.study, job.trial, job.architecture, job.evaluation, job.seed)
    return hashlib.sha256(json.dumps(parts).encode()).hexdigest()


def write_whole(path: Path, content: bytes) -> None:
    """Write beside, push to the disk, then rename: a reader sees the old content or the new, never a part."""
    beside = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        with beside.open("wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        beside.replace(path)
    except BaseException:
        beside.unlink(missing_ok=True)
        raise


def _report(facts: dict[str, Any]) -> Report:
    measurements = tuple(Measurement(**measurement) for measurement in facts.pop("measurements"))
    replicates = {name: tuple(values) for name, values in facts.pop("replicates").items()}
    return Report(**facts, measurements=measurements, replicates=replicates)
