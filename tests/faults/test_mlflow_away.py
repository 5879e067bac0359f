"""A real MLflow server is killed while a search runs: the search goes on, and the server is told later."""

import os
import signal
import socket
import sqlite3
import subprocess
import time
import urllib.request
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from hybridsearch.reporting.mlflow_places import default_uri, serve_command
from hybridsearch.trial import TrialState

SECONDS = 90.0
ENDINGS = {TrialState.FINISHED: "FINISHED", TrialState.STOPPED: "KILLED"}


class Server:
    """An MLflow server of a test's own, over a database that it keeps."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self.database = folder / "mlflow.db"
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self._port = int(free.getsockname()[1])
        self.url = f"http://127.0.0.1:{self._port}"
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        command = serve_command(default_uri(self._folder), port=self._port)
        with (self._folder / "server.txt").open("ab") as log:
            self._process = subprocess.Popen(command, stdout=log, stderr=log, start_new_session=True)
        limit = time.monotonic() + SECONDS
        while not self._answers():
            assert time.monotonic() < limit, (self._folder / "server.txt").read_text()
            time.sleep(0.1)

    def kill(self) -> None:
        if self._process is not None:
            os.killpg(self._process.pid, signal.SIGKILL)
            self._process.wait()
            self._process = None

    def runs(self) -> Counter[str]:
        """The runs of trials by status, as they stand in the database."""
        with sqlite3.connect(self.database) as database:
            nested = "select run_uuid from tags where key = 'mlflow.parentRunId'"
            rows = database.execute(f"select status from runs where run_uuid in ({nested})").fetchall()
        database.close()
        return Counter(status for (status,) in rows)

    def _answers(self) -> bool:
        try:
            with urllib.request.urlopen(f"{self.url}/health", timeout=5):
                return True
        except OSError:
            return False


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Server]:
    folder = tmp_path / "mlflow"
    folder.mkdir()
    (folder / "mlflow.db").touch()
    made = Server(folder)
    yield made
    made.kill()


def expected(drill: Any, name: str) -> Counter[str]:
    return Counter(ENDINGS[trial.state] for trial in drill.ended(name).values())


@pytest.mark.timeout(400)
def test_it_is_killed_comes_back_and_in_the_end_knows_everything(drill: Any, server: Server) -> None:
    log = drill.folder("away") / "log.txt"
    server.start()
    process = drill.start("away", "--tracking", server.url, "search", "drill.yaml", "--budget", "10trials")
    limit = time.monotonic() + SECONDS
    while not server.runs():
        assert time.monotonic() < limit, log.read_text()
        time.sleep(0.02)
    server.kill()
    server.start()
    # The search has ended meanwhile and waits half a minute for it.
    assert len(drill.finish("away", process)) == 10
    if server.runs() != expected(drill, "away"):
        assert "records were not written to MLflow; the search's own store is complete" in log.read_text()
        drill.finish("away", drill.start("away", "--tracking", server.url, "resume", "drill"))
    assert server.runs() == expected(drill, "away")
    assert "Traceback" not in log.read_text()
