"""What every test shares: one thread for torch, no leftovers of MLflow or Ray in the environment."""

import os
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings

os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
# Triton reads this at its first import: without a GPU its interpreter runs the kernels (tests/kernels/conftest.py).
os.environ.setdefault("TRITON_INTERPRET", "0" if Path("/dev/nvidiactl").exists() else "1")

# A loaded machine makes examples slow, not wrong; in CI the same examples are drawn every time.
settings.register_profile(
    "calm", deadline=None, suppress_health_check=[HealthCheck.too_slow], derandomize="CI" in os.environ
)
settings.load_profile("calm")


@pytest.fixture(autouse=True)
def _no_inherited_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("MLFLOW_RUN_ID", "MLFLOW_EXPERIMENT_ID", "MLFLOW_TRACKING_URI", "HYBRIDSEARCH_STORE"):
        monkeypatch.delenv(name, raising=False)
