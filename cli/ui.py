"""`hybridsearch ui`: MLflow's pages of the searches, served to this machine."""

import os
import re
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import IO, Annotated

import typer

from hybridsearch.cli import session, show
from hybridsearch.errors import HybridSearchError, InvalidSetting

EXAMPLES = show.examples("hybridsearch ui", "hybridsearch ui --port 5001")
HOST = "127.0.0.1"
"""MLflow's pages have no password: nobody but this machine may reach them."""
PORT = 5000
PATIENCE_SECONDS = 10.0
"""How long the server may take to end by itself."""


def ui(
    context: typer.Context,
    port: Annotated[int, typer.Option(metavar="N", min=1, max=65535, help="Port to listen on.")] = PORT,
) -> None:
    """Serve MLflow's pages on 127.0.0.1 until Ctrl-C."""
    from hybridsearch.reporting.mlflow_places import prepare_environment, serve_command

    uri = session.of(context).tracking_uri()
    if uri is None:
        raise InvalidSetting("MLflow is switched off with --tracking none; leave that out")
    command = serve_command(uri, HOST, port)
    if not _free(port):
        raise InvalidSetting(f"port {port} is taken; choose another, e.g. `hybridsearch ui --port {port % 65535 + 1}`")
    prepare_environment()
    show.note("starting MLflow's server, some seconds")
    with tempfile.TemporaryFile() as log, _serving(command, log) as server, suppress(KeyboardInterrupt):
        while server.poll() is None and not _answers(port):
            time.sleep(0.2)
        if server.poll() is None:
            show.line(f"http://{HOST}:{port}")
            show.note("Ctrl-C ends it")
        if server.wait() != 0:
            raise HybridSearchError(f"MLflow's server ended with code {server.returncode}: {_last_line(log)}")


@contextmanager
def _serving(command: list[str], log: IO[bytes]) -> "Iterator[subprocess.Popen[bytes]]":
    """The server in a process group of its own: Ctrl-C reaches us alone, and we end all its processes quietly."""
    # MLflow's job executors, five more processes, serve nothing that a search records.
    environment = {**os.environ, "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"}
    server = subprocess.Popen(command, stdout=log, stderr=log, env=environment, start_new_session=True)
    before = signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        yield server
    finally:
        signal.signal(signal.SIGTERM, before)
        with suppress(ProcessLookupError):
            os.killpg(server.pid, signal.SIGTERM)
        try:
            server.wait(PATIENCE_SECONDS)
        except subprocess.TimeoutExpired:
            os.killpg(server.pid, signal.SIGKILL)
            server.wait()


def _free(port: int) -> bool:
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((HOST, port))
        except OSError:
            return False
    return True


def _answers(port: int) -> bool:
    with socket.socket() as caller:
        return caller.connect_ex((HOST, port)) == 0


def _last_line(log: IO[bytes]) -> str:
    log.seek(0)
    lines = [text for text in log.read().decode(errors="replace").splitlines() if text.strip()]
    errors = [text for text in lines if re.match(r"[\w.]*(Error|Exception)\b", text)]  # how a traceback ends
    return (errors or lines)[-1][:300] if lines else "it said nothing"
