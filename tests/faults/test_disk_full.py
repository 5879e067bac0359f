"""Real small disks that fill up: under the store, under a trial's checkpoints, and under MLflow's records."""

import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from hybridsearch.db.store import Store

SEARCH = f"""
run="{sys.executable} -m hybridsearch --tracking none"
mkdir runs && mount -t tmpfs -o size=1200k tmpfs runs
$run search drill.yaml; echo ended with $?
mount -o remount,size=64m runs
$run resume drill; echo ended with $?
cp -r runs kept
"""
TRIAL = f"""
mkdir -p runs/s/trials/t00005 && mount -t tmpfs -o size=64k tmpfs runs/s/trials/t00005
{sys.executable} trial.py
mount -o remount,size=8m runs/s/trials/t00005
{sys.executable} trial.py
"""
TRIAL_PROGRAM = """
from pathlib import Path
from hybridsearch.errors import TrialFailure
from hybridsearch.settings import EvaluationSettings
from hybridsearch.spec.architecture import Architecture, Layer
from hybridsearch.spec.canonical import canonical_json, content_hash
from hybridsearch.spec.mixers import FullAttention
from hybridsearch.trial import Job
from hybridsearch.workers.evaluate import evaluate

level = {"length": 16, "pairs": 2}
settings = EvaluationSettings.model_validate({
    "task": {"vocabulary": 512, "train": [level], "test": [level], "test_examples": 8},
    "training": {"batch": 4}, "rungs": {"steps": [2, 4]}, "device": "cpu",
    "throughput": {"contexts": [8, 16], "batches": [1, 2], "decode_tokens": 2, "repeats": 3},
})
architecture = Architecture(width=32, layers=(Layer(mixer=FullAttention(heads=1, head_dim=8), feed_forward=0),))
job = Job(study="s", trial=5, hash=content_hash(architecture), architecture=canonical_json(architecture), seed=1,
          rungs=settings.rungs.ladder, evaluation=settings.model_dump_json(),
          folder=str(Path("runs/s/trials/t00005").absolute()))
try:
    print("reported", [report.rung for report in evaluate(job)])
except TrialFailure as failure:
    print("failed", failure.reason, failure)
"""
MLFLOW = f"""
mkdir records && mount -t tmpfs -o size=8m tmpfs records
{sys.executable} mirror.py
"""
MLFLOW_PROGRAM = """
import contextlib
from pathlib import Path
from hybridsearch.reporting.mlflow_places import default_uri
from hybridsearch.reporting.mlflow_reporter import MlflowReporter
from hybridsearch.trial import Candidate, TrialState

reporter = MlflowReporter(default_uri(Path("records")), warn=print)
reporter.study_started("s", "study: s\\nevaluation: {task: {name: recall}}\\n", (), {}, resumed=False)
with contextlib.suppress(OSError), open("records/others", "wb", buffering=0) as others:
    while True:
        others.write(b"x" * 4096)
made = Candidate(hash="0" * 64, canonical="{}", name="n", parameters=1, state_bytes=1, flops_per_token=1)
for number in range(40):
    reporter.trial_started(number, made, {"note": "x" * 4000})
    reporter.trial_ended(number, TrialState.FAILED, "x" * 4000, on_front=False)
reporter.close()
print("ended")
"""


@pytest.fixture(scope="module")
def own_mounts() -> list[str]:
    """The command that gives a program mounts of its own; skips where that is not allowed."""
    own = ["unshare", "--mount"] if os.geteuid() == 0 else ["unshare", "--user", "--map-root-user", "--mount"]
    allowed = shutil.which("unshare") and subprocess.run([*own, "true"], capture_output=True, check=False)
    if not allowed or allowed.returncode:
        pytest.skip("no mounts of one's own here, so that no disk can be small")
    return own


def run(own_mounts: list[str], folder: Path, script: str) -> tuple[list[str], list[str]]:
    """What the script said on both outputs, as lines."""
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "NO_COLOR": "1", "TMPDIR": str(folder)}
    ran = subprocess.run(
        [*own_mounts, "sh", "-c", script], cwd=folder, env=environment, capture_output=True, text=True, timeout=200,
        check=True,
    )  # fmt: skip
    assert "Traceback" not in ran.stderr, ran.stderr
    return ran.stdout.splitlines(), ran.stderr.splitlines()


def test_under_the_store_it_ends_the_search_in_one_line_and_a_resume_goes_on(
    own_mounts: list[str], drill: Any, undisturbed: list[Any], outcome: Callable[..., list[Any]]
) -> None:
    folder = drill.folder("full")
    out, err = run(own_mounts, folder, SEARCH)
    assert [line for line in out if line.startswith("ended")] == ["ended with 2", "ended with 0"]
    (said,) = [line for line in err if "disk is full" in line]
    assert "free some space and go on: all that was recorded is kept" in said
    assert outcome(drill.ended("full", "kept/hybridsearch.db")) == undisturbed
    with Store.open(f"sqlite:///{folder}/kept/hybridsearch.db") as store:
        (resumed,) = [event.message for event in store.events("drill") if event.kind == "resume"]
    assert int(resumed.split()[0]) > 10


def test_under_the_checkpoints_it_ends_one_trial(own_mounts: list[str], tmp_path: Path) -> None:
    (tmp_path / "trial.py").write_text(TRIAL_PROGRAM)
    out, _ = run(own_mounts, tmp_path, TRIAL)
    assert out == ["failed disk full OSError: [Errno 28] No space left on device", "reported [0, 1]"]


def test_under_mlflow_the_loss_is_said_and_nothing_else_happens(own_mounts: list[str], tmp_path: Path) -> None:
    (tmp_path / "mirror.py").write_text(MLFLOW_PROGRAM)
    out, _ = run(own_mounts, tmp_path, MLFLOW)
    assert out[0].startswith("MLflow could not record: ") and out[0].endswith(
        "the search goes on, and this is said once"
    )
    assert out[1].endswith("records were not written to MLflow; the search's own store is complete")
    assert out[2:] == ["ended"]
