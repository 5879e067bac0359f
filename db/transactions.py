"""Transactions on one database: opened by URL, explained when they fail, safe across threads and forks."""

import os
from collections.abc import Iterator
from contextlib import contextmanager

from sqlalchemy import Connection

from hybridsearch.db.connect import make_engine, parse_url, readers, writers
from hybridsearch.db.faults import explained, shown
from hybridsearch.db.schema import prepare
from hybridsearch.db.studies import lock_study


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
        self.claims: dict[str, str] = {}
        """Owner by study, for the studies that this process runs."""
        try:
            with explained(self._url):
                prepare(self._url, self._engine, create=create)
        except BaseException:
            self.close()
            raise

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
        with explained(self._url), readers(self._engine).begin() as connection:
            yield connection

    @contextmanager
    def write(self) -> Iterator[Connection]:
        """All that is written inside happens, or nothing of it."""
        self._leave_parents_connections()
        with explained(self._url), writers(self._engine).begin() as connection:
            yield connection

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
