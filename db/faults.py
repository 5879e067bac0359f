"""Database errors in one line: what is wrong, where, and what to do. No driver's traceback leaves the store."""

import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from sqlalchemy import URL
from sqlalchemy.exc import DBAPIError, OperationalError
from sqlalchemy.exc import TimeoutError as PoolTimeout

from hybridsearch.errors import StoreUnavailable

SQLITE_FAULTS = {
    sqlite3.SQLITE_FULL: "the disk is full; free some space and go on: all that was recorded is kept",
    sqlite3.SQLITE_READONLY: "it is read-only; make the file and its folder writable, or choose another store",
    sqlite3.SQLITE_PERM: "access is denied; make the file and its folder writable, or choose another store",
    sqlite3.SQLITE_NOTADB: "the file is not a SQLite database; choose another path",
    sqlite3.SQLITE_CORRUPT: "the file is damaged; restore a copy, or try `sqlite3 FILE .recover`",
    sqlite3.SQLITE_BUSY: "another program keeps it locked; end that program and try again",
    sqlite3.SQLITE_LOCKED: "another program keeps it locked; end that program and try again",
    sqlite3.SQLITE_IOERR: "the disk failed to read or write; check the disk and its free space",
}
"""By primary result code."""

POSTGRESQL_FAULTS = {
    "53100": "the server's disk is full; free some space there and go on: all that was recorded is kept",
    "53300": "the server has no connection left; close other programs or raise max_connections",
    "55P03": "another program keeps it locked; end that program and try again",
    "42501": "this user may not do that; grant it the right to create and change tables",
    "25006": "the server is read-only; connect to the primary server",
}
"""By SQLSTATE."""


def shown(url: URL) -> str:
    """The URL without its password."""
    return url.render_as_string(hide_password=True)


class ConnectionLost(StoreUnavailable):
    """The server went away inside a transaction: nothing of it has happened, unless its commit was under way."""


def is_away(error: OperationalError) -> bool:
    """Whether a server that answered before does not for now: it is down, ends, starts, or has too many connections."""
    state = getattr(error.orig, "sqlstate", None) or ""
    return state[:2] in ("", "08", "53", "57")


def is_lost(error: DBAPIError) -> bool:
    """Whether the server has ended the connection."""
    return error.connection_invalidated


@contextmanager
def explained(url: URL) -> Iterator[None]:
    """Turn what the database or its driver raises inside into one line.

    Raises:
        StoreUnavailable: the database cannot be used.
    """
    try:
        yield
    except (DBAPIError, sqlite3.Error) as error:
        raise StoreUnavailable(f"store {shown(url)}: {_fault(url, error)}") from error
    except PoolTimeout as error:
        raise StoreUnavailable(f"store {shown(url)}: all connections are in use; use fewer threads") from error


def folder_fault(url: URL, folder: Path, error: OSError) -> StoreUnavailable:
    """The error for a folder that cannot be made."""
    return StoreUnavailable(
        f"store {shown(url)}: folder {folder} cannot be made ({error.strerror}); choose another path"
    )


def _fault(url: URL, error: DBAPIError | sqlite3.Error) -> str:
    cause = error.orig if isinstance(error, DBAPIError) else error
    said = " ".join(str(cause).split())[:300]
    code = getattr(cause, "sqlite_errorcode", None)
    if code is not None:
        return _sqlite_fault(url, code & 0xFF) or f"unexpected database error ({said})"
    state = getattr(cause, "sqlstate", None) or ""
    if state in POSTGRESQL_FAULTS:
        return POSTGRESQL_FAULTS[state]
    # Until the server has answered there is no SQLSTATE; classes 08, 28, 3D and 57 are about the connection too.
    if isinstance(error, OperationalError) and state[:2] in ("", "08", "28", "3D", "57"):
        return f"no connection ({said}); check that the server runs, and host, port, database, user and password"
    return f"unexpected database error ({said})"


def _sqlite_fault(url: URL, code: int) -> str | None:
    if code == sqlite3.SQLITE_CANTOPEN:
        path = Path(url.database or "")
        if path.is_dir():
            return "this is a folder; name a file in it"
        return f"the file cannot be opened; check that folder {path.parent} exists and is writable"
    return SQLITE_FAULTS.get(code)
