import os
import subprocess
import sys
from pathlib import Path

import pytest

from hybridsearch.errors import InvalidSetting
from hybridsearch.reporting.mlflow_places import artifact_folder, default_uri, prepare_environment, serve_command, shown


def test_the_default_is_an_absolute_file_with_its_artifacts_beside_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    uri = default_uri(Path("runs"))
    assert uri == f"sqlite:///{tmp_path}/runs/mlflow.db"
    assert artifact_folder(uri) == tmp_path / "runs" / "mlflow-artifacts"
    assert artifact_folder("sqlite:///mlflow.db") == tmp_path / "mlflow-artifacts"
    assert artifact_folder("postgresql://host/db") is None


def test_pages_are_served_to_this_machine_only(tmp_path: Path) -> None:
    (tmp_path / "mlflow.db").touch()
    command = serve_command(default_uri(tmp_path), port=5001)
    assert command[:4] == [sys.executable, "-m", "mlflow", "server"]
    assert command[command.index("--host") + 1] == "127.0.0.1"
    assert command[command.index("--port") + 1] == "5001"
    assert not {"--disable-security-middleware", "--allowed-hosts"} & set(command)


@pytest.mark.parametrize(
    ("uri", "remedy"), [("http://host:5000", "open it"), ("sqlite:////no/such.db", "run a search")]
)
def test_what_cannot_be_served_is_refused(uri: str, remedy: str) -> None:
    with pytest.raises(InvalidSetting, match=remedy):
        serve_command(uri)


def test_the_users_environment_wins(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_TIMEOUT", "99")
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "1")
    monkeypatch.delenv("MLFLOW_DISABLE_TELEMETRY", raising=False)
    prepare_environment()
    assert os.environ["MLFLOW_HTTP_REQUEST_TIMEOUT"] == "99"
    assert os.environ.pop("MLFLOW_DISABLE_TELEMETRY") == "true"


def test_heavy_libraries_are_not_imported_before_they_are_used() -> None:
    modules = "reporting.mlflow_reporter, hybridsearch.reporting.mlflow_places, hybridsearch.reporting.points"
    code = (
        f"import sys, hybridsearch.{modules}; print({{'mlflow', 'plotly', 'matplotlib', 'torch'}} & set(sys.modules))"
    )
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "set()\n"


def test_passwords_are_not_shown() -> None:
    assert shown("postgresql://me:secret@host/db") == "postgresql://me:***@host/db"
    assert shown("http://host:5000") == "http://host:5000"
    assert shown("sqlite:////a/b.db") == "sqlite:////a/b.db"
