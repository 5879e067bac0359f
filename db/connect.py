"""From a URL to an engine: which databases are known, and how each connection is set up."""

import json
import re
import sqlite3
import time
from functools import partial
from pathlib import Path
from typing import Any

from sqlalchemy import URL, Connection, Engine, create_engine, event, make_url
from sqlalchemy.exc import ArgumentError

from hybridsearch.errors import InvalidSetting

DRIVERS = {
    "sqlite": "sqlite",
    "sqlite+pysqlite": "sqlite",
    "postgresql": "postgresql+psycopg",
    "postgresql+psycopg": "postgresql+psycopg",
}
"""Drivers by what a URL may begin with."""
EXAMPLES = "sqlite:///runs/hybridsearch.db or postgresql+psycopg://user:password@host/database"
BUSY_SECONDS = 30.0
"""How long to wait for a lock that another process holds."""
CONNECT_SECONDS = 10
"""How long to wait for a PostgreSQL server to answer."""
SQLITE_PRAGMAS: dict[str, str | int] = {"foreign_keys": "ON"}
"""Set on every new connection."""
MIGRATION_PRAGMAS: dict[str, str | int] = {"foreign_keys": "OFF"}
"""Set instead while migrating: SQLite changes a table by rebuilding it and dropping the old one."""
COMPACT = partial(json.dumps, separators=(",", ":"), allow_nan=False)


def default_url(folder: Path) -> str:
    """The store of all studies that live in `folder`: `hybridsearch.db` in it."""
    return URL.create("sqlite", database=str(folder.absolute() / "hybridsearch.db")).render_as_string()


def parse_url(text: str) -> URL:
    """A URL that names a known database.

    Raises:
        InvalidSetting: it is no URL, or names another kind of database.
    """
    try:
        url = make_url(text)
    except (ArgumentError, ValueError):  # the latter for a port that is no number
        raise InvalidSetting(f"store `{_hidden(text)}` is no database URL; write {EXAMPLES}") from None
    driver = DRIVERS.get(url.drivername)
    if driver is None:
        found = f"store `{_hidden(text)}` names the database `{url.drivername}`"
        raise InvalidSetting(f"{found}; known are sqlite and postgresql+psycopg: write {EXAMPLES}")
    url = url.set(drivername=driver)
    return _sqlite_url(url, text) if driver == "sqlite" else url


def make_engine(url: URL, *, migrating: bool = False) -> Engine:
    """An engine whose connections wait for locks and keep foreign keys; it connects on first use.

    Args:
        url: from `parse_url`.
        migrating: whether its connections change the schema; then the rows are to be checked at the end.

    Raises:
        InvalidSetting: the driver of the database is not installed.
    """
    if url.get_backend_name() == "sqlite":
        return _sqlite_engine(url, MIGRATION_PRAGMAS if migrating else SQLITE_PRAGMAS)
    defaults = {"connect_timeout": CONNECT_SECONDS, "application_name": "hybridsearch"}
    arguments = {name: value for name, value in defaults.items() if name not in url.query}
    try:
        engine = create_engine(url, connect_args=arguments, pool_pre_ping=True, json_serializer=COMPACT)
    except ImportError:
        message = "PostgreSQL needs the psycopg package; run `pip install 'hybridsearch[postgresql]'`"
        raise InvalidSetting(f"store {url.render_as_string(hide_password=True)}: {message}") from None
    event.listen(engine, "connect", _limit_waiting)
    return engine


def readers(engine: Engine) -> Engine:
    """The same engine for transactions that only read, each from one snapshot."""
    if engine.dialect.name == "postgresql":
        return engine.execution_options(isolation_level="REPEATABLE READ", postgresql_readonly=True)
    return engine


def writers(engine: Engine) -> Engine:
    """The same engine for transactions that write: SQLite takes its lock at once, where waiting for it works."""
    return engine.execution_options(immediate=True)


def keep_write_ahead_log(engine: Engine) -> None:
    """Let readers and the writer of a SQLite file work side by side; the file remembers it. Nothing elsewhere."""
    if engine.dialect.name != "sqlite":
        return
    with engine.connect() as connection:
        cursor = connection.connection.cursor()
        if cursor.execute("PRAGMA journal_mode").fetchone()[0] == "wal":
            return
        _switch_log(cursor)
    engine.dispose()  # connections made before are set up for the old kind of log


def _sqlite_url(url: URL, text: str) -> URL:
    if url.host is not None:
        raise InvalidSetting(
            f"store `{_hidden(text)}` has too few slashes; write sqlite:///{url.host}/{url.database or ''}"
        )
    database = url.database
    if not database or database == ":memory:" or database.startswith("file:"):
        raise InvalidSetting(f"store `{text}` names no file, and a search must survive its process; write {EXAMPLES}")
    return url.set(database=str(Path(database).expanduser().absolute()))


def _sqlite_engine(url: URL, pragmas: dict[str, str | int]) -> Engine:
    engine = create_engine(url, connect_args={"timeout": BUSY_SECONDS}, json_serializer=COMPACT)

    def set_up(connection: sqlite3.Connection, _record: object) -> None:
        connection.isolation_level = None  # transactions begin below, not when sqlite3 thinks that they should
        mode = connection.execute("PRAGMA journal_mode").fetchone()[0]
        # In a write-ahead log NORMAL loses nothing to kill -9 and waits for no disk; elsewhere it could lose the file.
        connection.execute(f"PRAGMA synchronous={'NORMAL' if mode == 'wal' else 'FULL'}")
        for name, value in pragmas.items():
            connection.execute(f"PRAGMA {name}={value}")

    event.listen(engine, "connect", set_up)
    event.listen(engine, "begin", _begin)
    return engine


def _switch_log(cursor: Any) -> None:
    """SQLite does not wait for a lock when it changes its kind of log: wait here."""
    deadline = time.monotonic() + BUSY_SECONDS
    while True:
        try:
            cursor.execute("PRAGMA journal_mode=WAL")
        except sqlite3.OperationalError as error:
            if error.sqlite_errorcode & 0xFF != sqlite3.SQLITE_BUSY or time.monotonic() > deadline:
                raise
            time.sleep(0.02)
        else:
            return


def _begin(connection: Connection) -> None:
    immediate = connection.get_execution_options().get("immediate", False)
    connection.exec_driver_sql("BEGIN IMMEDIATE" if immediate else "BEGIN")


def _limit_waiting(connection: Any, _record: object) -> None:
    cursor = connection.cursor()
    cursor.execute(f"SET lock_timeout = '{int(BUSY_SECONDS * 1000)}ms'")
    cursor.close()
    connection.commit()


def _hidden(text: str) -> str:
    """The text of a URL that could not be parsed, without what may be a password."""
    return re.sub(r":.*@", ":***@", text)
