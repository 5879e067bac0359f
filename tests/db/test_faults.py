"""Everything that goes wrong with a database is one line: what, where, and what to do."""

import os
import shutil
import sqlite3
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import psycopg
import pytest
from sqlalchemy import create_engine, make_url, text
from sqlalchemy.exc import OperationalError, ProgrammingError

from hybridsearch.db import connect
from hybridsearch.db.faults import explained
from hybridsearch.db.store import Store, default_url
from hybridsearch.errors import InvalidSetting, StoreUnavailable
from hybridsearch.trial import Candidate

Fill = Callable[[Store], int]


@pytest.fixture
def fill(candidate: Callable[..., Candidate]) -> Fill:
    """Adds trials until the store refuses, and says how many it took."""

    def run(store: Store) -> int:
        for number in range(10_000):
            try:
                store.add_trial("s", candidate(number), sampler="random", seed=1, note="x" * 4000)
            except StoreUnavailable:
                return number
        pytest.fail("the store was never full")

    return run


@pytest.fixture
def unprivileged() -> Iterator[Path]:
    """A folder, and no right to do everything: root becomes another user, since nothing is read-only to root."""
    folder = Path(tempfile.mkdtemp(prefix="hybridsearch-test-"))
    root = os.geteuid() == 0
    if root:
        os.chown(folder, 65534, 65534)
        os.seteuid(65534)
    try:
        yield folder
    finally:
        if root:
            os.seteuid(0)
        folder.chmod(0o755)
        shutil.rmtree(folder)


def one_line(error: pytest.ExceptionInfo[Exception], *parts: str) -> None:
    said = str(error.value)
    assert "\n" not in said
    for part in parts:
        assert part in said, said


@pytest.mark.parametrize(
    ("url", "parts"),
    [
        ("runs/store.db", ("`runs/store.db` is no database URL", "write sqlite:///")),
        ("", ("is no database URL",)),
        ("mysql://user:secret@host/db", ("`mysql`", "known are sqlite and postgresql+psycopg")),
        ("postgres://user:secret@host/db", ("`postgres`", "write sqlite:///", "postgresql+psycopg://")),
        ("postgresql+psycopg2://u:secret@host/db", ("`postgresql+psycopg2`",)),
        ("sqlit:///x.db", ("`sqlit`",)),
        ("sqlite://runs/store.db", ("too few slashes", "sqlite:///runs/store.db")),
        ("sqlite://", ("names no file",)),
        ("sqlite:///:memory:", ("names no file",)),
        ("postgresql//user:secret@host/db", ("is no database URL",)),
        ("postgresql+psycopg://u:sec/ret@host:port/db", ("is no database URL",)),
    ],
)
def test_a_wrong_url(url: str, parts: tuple[str, ...]) -> None:
    with pytest.raises(InvalidSetting) as error:
        Store.open(url)
    one_line(error, *parts)
    assert "sec" not in str(error.value)


def test_psycopg_is_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "psycopg", None)
    with pytest.raises(InvalidSetting) as error:
        Store.open("postgresql+psycopg://user:secret@127.0.0.1/db")
    one_line(error, "pip install 'hybridsearch[postgresql]'")
    assert "secret" not in str(error.value)


def test_the_default_store_of_a_folder(tmp_path: Path) -> None:
    folder = tmp_path / "a folder, 100% ü#?&" / "runs"
    with Store.open(default_url(folder)) as store:
        store.create_study("s", "{}", seed=1, space_json="{}", versions={})
    assert (folder / "hybridsearch.db").is_file()


def test_a_relative_path_stays_where_it_was_opened(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with Store.open("sqlite:///runs/store.db") as store:
        monkeypatch.chdir("/")
        store.create_study("s", "{}", seed=1, space_json="{}", versions={})
    assert (tmp_path / "runs" / "store.db").is_file()


def test_no_store_there(tmp_path: Path) -> None:
    with pytest.raises(StoreUnavailable) as error:
        Store.open(f"sqlite:///{tmp_path}/sub/store.db", create=False)
    one_line(error, f"{tmp_path}/sub/store.db", "no such file", "run a search first")
    assert not list(tmp_path.iterdir())


def test_no_store_in_the_database(url: str) -> None:
    if url.startswith("sqlite"):
        sqlite3.connect(make_url(url).database or "").close()
    with pytest.raises(StoreUnavailable) as error:
        Store.open(url, create=False)
    one_line(error, "holds no studies yet", "run a search first")


@pytest.mark.parametrize("content", [b"not a database, but long enough to be taken for one " * 40, b"short"])
def test_another_file(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "store.db"
    path.write_bytes(content)
    with pytest.raises(StoreUnavailable) as error:
        Store.open(f"sqlite:///{path}")
    one_line(error, str(path), "not a SQLite database", "choose another path")
    assert path.read_bytes() == content


def test_a_damaged_file(sqlite_store: Path, tmp_path: Path) -> None:
    path = tmp_path / "store.db"
    data = bytearray(sqlite_store.read_bytes())
    data[4096:] = b"\xff" * (len(data) - 4096)
    path.write_bytes(data)
    with pytest.raises(StoreUnavailable) as error:
        Store.open(f"sqlite:///{path}").create_study("s", "{}", seed=1, space_json="{}", versions={})
    one_line(error, str(path), "damaged", "restore a copy")


def test_a_folder_instead_of_a_file(tmp_path: Path) -> None:
    with pytest.raises(StoreUnavailable) as error:
        Store.open(f"sqlite:///{tmp_path}")
    one_line(error, "this is a folder; name a file in it")


def test_a_file_instead_of_a_folder(tmp_path: Path) -> None:
    (tmp_path / "runs").write_text("")
    with pytest.raises(StoreUnavailable) as error:
        Store.open(f"sqlite:///{tmp_path}/runs/sub/store.db")
    one_line(error, "runs/sub cannot be made", "choose another path")


def test_a_read_only_folder(unprivileged: Path) -> None:
    unprivileged.chmod(0o555)
    for path in ("store.db", "sub/store.db"):
        with pytest.raises(StoreUnavailable) as error:
            Store.open(f"sqlite:///{unprivileged}/{path}")
        one_line(error, str(unprivileged))
    assert not list(unprivileged.iterdir())


def test_a_folder_that_turns_read_only(unprivileged: Path) -> None:
    path = unprivileged / "store.db"
    Store.open(f"sqlite:///{path}").close()
    path.chmod(0o444)
    unprivileged.chmod(0o555)
    with pytest.raises(StoreUnavailable) as error:
        Store.open(f"sqlite:///{path}").create_study("s", "{}", seed=1, space_json="{}", versions={})
    one_line(error, str(path), "writable")


def test_a_full_disk_loses_nothing(
    sqlite_store: Path, tmp_path: Path, fill: Fill, monkeypatch: pytest.MonkeyPatch, candidate: Callable[..., Candidate]
) -> None:
    shutil.copy(sqlite_store, tmp_path / "store.db")
    url = f"sqlite:///{tmp_path}/store.db"
    with Store.open(url) as store:
        store.create_study("s", "{}", seed=1, space_json="{}", versions={})
    with monkeypatch.context() as small_disk:
        small_disk.setattr(connect, "SQLITE_PRAGMAS", {**connect.SQLITE_PRAGMAS, "max_page_count": 40})
        with Store.open(url) as store:
            kept = fill(store)
            assert kept > 0
            with pytest.raises(StoreUnavailable) as error:
                store.add_trial("s", candidate(kept), sampler="random", seed=1, note="x" * 4000)
            one_line(error, f"{tmp_path}/store.db", "the disk is full", "free some space")
            assert [trial.number for trial in store.trials("s")] == list(range(kept))
    with Store.open(url) as store:
        assert store.add_trial("s", candidate(kept), sampler="random", seed=1).number == kept


def test_a_disk_too_small_for_the_tables(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    url = f"sqlite:///{tmp_path}/store.db"
    with monkeypatch.context() as small_disk:
        small_disk.setattr(connect, "MIGRATION_PRAGMAS", {**connect.MIGRATION_PRAGMAS, "max_page_count": 6})
        with pytest.raises(StoreUnavailable) as error:
            Store.open(url)
        one_line(error, "the disk is full")
    with sqlite3.connect(tmp_path / "store.db") as half_made:
        assert half_made.execute("SELECT name FROM sqlite_master").fetchall() == []
    half_made.close()
    with Store.open(url) as store:
        assert store.studies() == []


def test_another_program_holds_the_lock(sqlite_store: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(connect, "BUSY_SECONDS", 0.05)
    shutil.copy(sqlite_store, tmp_path / "store.db")
    holder = sqlite3.connect(tmp_path / "store.db", isolation_level=None)
    holder.execute("BEGIN IMMEDIATE")
    with Store.open(f"sqlite:///{tmp_path}/store.db") as store:
        assert store.studies() == []
        with pytest.raises(StoreUnavailable) as error:
            store.create_study("s", "{}", seed=1, space_json="{}", versions={})
        one_line(error, "another program keeps it locked")
        holder.execute("ROLLBACK")
        store.create_study("s", "{}", seed=1, space_json="{}", versions={})
    holder.close()


def test_another_program_locks_the_study(postgresql_store: Callable[[], str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(connect, "BUSY_SECONDS", 0.05)
    url = postgresql_store()
    engine = create_engine(url)
    with Store.open(url) as store:
        store.create_study("s", "{}", seed=1, space_json="{}", versions={})
        with engine.begin() as holder:
            holder.execute(text("SELECT id FROM studies FOR UPDATE"))
            assert store.study("s").elapsed == 0.0
            with pytest.raises(StoreUnavailable) as error:
                store.heartbeat("s", 1.0)
            one_line(error, "another program keeps it locked")
        assert store.heartbeat("s", 1.0) == 1.0
    engine.dispose()


@pytest.mark.parametrize(
    ("fault", "said"),
    [
        (psycopg.errors.DiskFull, "the server's disk is full"),
        (psycopg.errors.TooManyConnections, "no connection left"),
        (psycopg.errors.ReadOnlySqlTransaction, "the server is read-only"),
        (psycopg.errors.AdminShutdown, "check that the server runs"),
        (psycopg.errors.UndefinedColumn, "unexpected database error (what it said)"),
    ],
)
def test_what_the_server_says(fault: type[psycopg.Error], said: str) -> None:
    kind = OperationalError if issubclass(fault, psycopg.OperationalError) else ProgrammingError
    with pytest.raises(StoreUnavailable) as error, explained(make_url("postgresql+psycopg://u:secret@h/db")):
        raise kind("SELECT 1", None, fault("what it\n   said"))
    one_line(error, "postgresql+psycopg://u:***@h/db", said)


def test_no_server_answers() -> None:
    with pytest.raises(StoreUnavailable) as error:
        Store.open("postgresql+psycopg://user:secret@127.0.0.1:1/db")
    one_line(error, "127.0.0.1:1/db", "no connection", "refused", "check that the server runs")
    assert "secret" not in str(error.value)


def test_no_such_database(postgresql_server: str) -> None:
    with pytest.raises(StoreUnavailable) as error:
        Store.open(make_url(postgresql_server).set(database="nowhere").render_as_string(hide_password=False))
    one_line(error, 'database "nowhere" does not exist', "check that the server runs")


def test_a_connection_that_broke_is_made_again(postgresql_store: Callable[[], str]) -> None:
    url = postgresql_store()
    with Store.open(url) as store:
        store.create_study("s", "{}", seed=1, space_json="{}", versions={})
        engine = create_engine(url, isolation_level="AUTOCOMMIT")
        with engine.connect() as connection:
            others = "datname = current_database() AND application_name = 'hybridsearch'"
            connection.execute(text(f"SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE {others}"))
        engine.dispose()
        assert [study.name for study in store.studies()] == ["s"]


def test_a_postgresql_user_without_rights(postgresql_store: Callable[[], str]) -> None:
    url = postgresql_store()
    engine = create_engine(url, isolation_level="AUTOCOMMIT")
    with engine.connect() as connection:
        connection.execute(text("DROP ROLE IF EXISTS hybridsearch_guest"))
        connection.execute(text("CREATE ROLE hybridsearch_guest LOGIN"))
    try:
        with pytest.raises(StoreUnavailable) as error:
            guest = make_url(url).set(username="hybridsearch_guest", password=None)
            Store.open(guest.render_as_string()).studies()
        one_line(error, "this user may not do that", "grant")
    finally:
        with engine.connect() as connection:
            connection.execute(text("DROP ROLE hybridsearch_guest"))
        engine.dispose()
