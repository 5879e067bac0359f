"""Transactions on one database: opened by URL, explained when they fail, safe across threads and forks.

A PostgreSQL server may be restarted meanwhile: a transaction that begins waits for its return, and one that was cut off
is done again. If it was cut off in its commit, nobody knows whether it has happened (`in_doubt`).
"""

import os
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import wraps
from typing import Concatenate, ParamSpec, Protocol, TypeVar

from sqlalchemy import Connection, Engine
from sqlalchemy.exc import DBAPIError, OperationalError

from hybridsearch.db.connect import make_engine, parse_url, readers, writers
from hybridsearch.db.faults import ConnectionLost, explained, is_away, is_lost, shown
from hybridsearch.db.schema import prepare
from hybridsearch.db.studies import lock_study

AWAY_SECONDS = 60.0
"""How long a server that has answered before is waited for; an owner is taken for dead after twice that silence."""
PAUSE_SECONDS = 0.2
"""Time between two tries."""
TRIES = 3
"""Of a transaction that is cut off again and again."""


class Transactions:
    """Reading and writing transactions, and the claims that writes are checked against.

    Args:
        url: of the database.
        create: whether to make the store when there is none.

    Raises:
        InvalidSetting: the URL is wrong, or the driver of its database is not installed.
        StoreUnavailable: see `schema.prepare`.
    """

    def __init__(self, url: str, *, create: bool) -> None:
        self._url = parse_url(url)
        self._engine = make_engine(self._url)
        self._process = os.getpid()
        self._patient = self._url.get_backend_name() != "sqlite"
        self.claims: dict[str, str] = {}
        """Owner by study, for the studies that this process runs."""
        self._doubt = threading.local()
        try:
            with explained(self._url):
                prepare(self._url, self._engine, create=create)
        except BaseException:
            self.close()
            raise

    @property
    def in_doubt(self) -> bool:
        """Whether this thread repeats a transaction that may have happened already."""
        return getattr(self._doubt, "commit", False)

    @property
    def shown(self) -> str:
        """The URL without its password."""
        return shown(self._url)

    def close(self) -> None:
        """Close all connections."""
        self._engine.dispose()

    @contextmanager
    def read(self) -> Iterator[Connection]:
        """One snapshot; reads wait for no writer."""
        self._leave_parents_connections()
        with explained(self._url), self._connected(readers(self._engine)) as connection, connection.begin():
            yield connection

    @contextmanager
    def write(self) -> Iterator[Connection]:
        """All that is written inside happens, or nothing of it.

        Raises:
            ConnectionLost: the server went away; whether the commit had begun is kept in `in_doubt`.
        """
        self._leave_parents_connections()
        with explained(self._url), self._connected(writers(self._engine)) as connection:
            try:
                with connection.begin() as transaction:
                    yield connection
                    self._doubt.commit = True
                    transaction.commit()
                    self._doubt.commit = False
            except DBAPIError as error:
                if is_lost(error):
                    said = "the server has gone away; check that it runs, and go on: all that was recorded is kept"
                    raise ConnectionLost(f"store {self.shown}: {said}") from error
                raise

    def _connected(self, engine: Engine) -> Connection:
        """A connection, once the server answers."""
        deadline = time.monotonic() + AWAY_SECONDS
        while True:
            try:
                return engine.connect()
            except OperationalError as error:
                self._patient = self._patient and time.monotonic() < deadline  # waited for once, and not again
                if not self._patient or not is_away(error):
                    raise
            time.sleep(PAUSE_SECONDS)

    @contextmanager
    def write_study(self, study: str) -> Iterator[tuple[Connection, int]]:
        """A writing transaction that holds one study against other writers, with the key of its rows.

        Raises:
            UnknownStudy: there is none of that name.
            StoreUnavailable: this process claimed the study and lost it.
        """
        with self.write() as connection:
            yield connection, lock_study(connection, study, self.claims.get(study))

    def _leave_parents_connections(self) -> None:
        """A forked process shares its parent's sockets and file locks: forget them, without closing them."""
        if os.getpid() != self._process:
            self._engine.dispose(close=False)
            self._process = os.getpid()
            self.claims = {}


class _Writer(Protocol):
    """What has transactions."""

    @property
    def _transactions(self) -> Transactions: ...


Self = TypeVar("Self", bound=_Writer)
Given = ParamSpec("Given")
Answer = TypeVar("Answer")


def lasting(write: Callable[Concatenate[Self, Given], Answer]) -> Callable[Concatenate[Self, Given], Answer]:
    """Do a method that is one transaction again when the server went away inside it."""

    @wraps(write)
    def again(self: Self, /, *given: Given.args, **named: Given.kwargs) -> Answer:
        for _ in range(TRIES - 1):
            try:
                return write(self, *given, **named)
            except ConnectionLost:
                continue
        return write(self, *given, **named)

    return again
