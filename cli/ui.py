"""`hybridsearch ui`: MLflow's pages of the searches, served to this machine."""

import socket
import subprocess
from contextlib import suppress
from typing import Annotated

import typer

from hybridsearch.cli import session, show
from hybridsearch.errors import HybridSearchError, InvalidSetting

EXAMPLES = show.examples("hybridsearch ui", "hybridsearch ui --port 5001")
HOST = "127.0.0.1"
"""MLflow's pages have no password: nobody but this machine may reach them."""


def ui(
    context: typer.Context,
    port: Annotated[int, typer.Option(min=1, max=65535, help="Port to listen on.")] = 5000,
) -> None:
    """Serve MLflow's pages on 127.0.0.1 until Ctrl-C."""
    from hybridsearch.reporting.mlflow_places import prepare_environment, serve_command

    uri = session.of(context).tracking_uri()
    if uri is None:
        raise InvalidSetting("MLflow is switched off with --tracking none; leave that out")
    command = serve_command(uri, HOST, port)
    if _taken(port):
        raise InvalidSetting(f"port {port} is taken; choose another, e.g. `hybridsearch ui --port {port % 65535 + 1}`")
    prepare_environment()
    show.line(f"http://{HOST}:{port}    (takes some seconds to come up; Ctrl-C ends it)")
    with suppress(KeyboardInterrupt):
        code = subprocess.run(command, check=False).returncode
        if code != 0:
            raise HybridSearchError(f"MLflow's server ended with code {code}; its own words are above")


def _taken(port: int) -> bool:
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((HOST, port))
        except OSError:
            return True
    return False
