"""Where MLflow keeps its records, and how its pages are served. It does not import mlflow."""

import os
import re
import sys
from pathlib import Path

from hybridsearch.errors import InvalidSetting

SQLITE = "sqlite:///"
SCHEMES = ("sqlite", "postgresql", "mysql", "mssql", "http", "https")


def default_uri(runs: Path) -> str:
    """The tracking URI of a runs folder: a SQLite file in it."""
    return f"{SQLITE}{runs.resolve() / 'mlflow.db'}"


def check(uri: str) -> None:
    """Refuse what is no tracking URI; whether somebody answers there is seen when it is used.

    Raises:
        InvalidSetting: its scheme is none that MLflow tracks to.
    """
    scheme = uri.partition("://")[0].partition("+")[0]
    if "://" not in uri or scheme not in SCHEMES:
        raise InvalidSetting(
            f"tracking URI `{shown(uri)}` is not understood; write sqlite:///runs/mlflow.db, http://host:5000, or none"
        )


def is_server(uri: str) -> bool:
    """Whether the URI is a server's address, whose pages a browser shows."""
    return uri.startswith(("http://", "https://"))


def database_file(uri: str) -> Path | None:
    """The SQLite file behind a tracking URI, absolute; none for a server or another database."""
    return Path(uri.removeprefix(SQLITE)).resolve() if uri.startswith(SQLITE) else None


def artifact_folder(uri: str) -> Path | None:
    """The folder beside the SQLite file that holds figures and settings; none where the server decides."""
    database = database_file(uri)
    return database.parent / "mlflow-artifacts" if database is not None else None


def shown(uri: str) -> str:
    """A tracking URI, or a text with one in it, as errors show it: without its password."""
    return re.sub(r"(://[^/@:]*):[^/@]*@", r"\1:***@", uri)


def prepare_environment() -> None:
    """Defaults that MLflow reads from the environment; what the user has set stays.

    No usage data is sent, nothing is printed to standard output (machines read ours), and a server that does not
    answer is given up after seconds instead of minutes.
    """
    os.environ.setdefault("MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT", "true")
    os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
    os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "2")
    os.environ.setdefault("MLFLOW_HTTP_REQUEST_TIMEOUT", "20")


def serve_command(uri: str, host: str = "127.0.0.1", port: int = 5000) -> list[str]:
    """The command that shows a tracking database in the browser.

    MLflow's pages have no password: bound to another address than 127.0.0.1, everyone who reaches it can change runs.

    Raises:
        InvalidSetting: the URI is a server already, or its SQLite file does not exist.
    """
    if is_server(uri):
        raise InvalidSetting(f"{shown(uri)} is an MLflow server already; open it in the browser")
    database = database_file(uri)
    if database is not None and not database.exists():
        raise InvalidSetting(f"{database}: no such file; run a search first, or give the URI it was recorded under")
    command = [
        sys.executable,
        "-m",
        "mlflow",
        "server",
        "--backend-store-uri",
        uri,
        "--host",
        host,
        "--port",
        str(port),
    ]
    # One process serves one person; MLflow's default of four takes four times the memory (0.2 GB each).
    command += ["--workers", "1"]
    folder = artifact_folder(uri)
    return command if folder is None else [*command, "--default-artifact-root", folder.as_uri()]
