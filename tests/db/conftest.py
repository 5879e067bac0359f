"""The two engines: a SQLite file for every test, and a real PostgreSQL server for the session."""

import ctypes
import hashlib
import os
import pwd
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from itertools import count
from pathlib import Path

import psycopg
import pytest
from sqlalchemy import create_engine, make_url, text

from hybridsearch.db.store import Store, StudyRecord
from hybridsearch.db.tables import METADATA
from hybridsearch.errors import FailureReason
from hybridsearch.trial import Candidate, Measurement, Report, TrialState

START_SECONDS = 60.0
GIVEN = "HYBRIDSEARCH_TEST_POSTGRESQL"
FAST = ("fsync=off", "synchronous_commit=off", "full_page_writes=off", "shared_buffers=32MB", "max_connections=50")


def program(name: str) -> str | None:
    """A program of the newest PostgreSQL found; Debian keeps the server's out of PATH."""
    homes = sorted(Path("/usr/lib/postgresql").glob("*/bin"), key=lambda home: float(home.parent.name), reverse=True)
    return shutil.which(name, path=os.pathsep.join([os.environ.get("PATH", ""), *map(str, homes)]))


def server_user() -> str | None:
    """The server refuses to run as root: another user then."""
    if os.geteuid() != 0:
        return None
    known = {user.pw_name for user in pwd.getpwall()}
    return "postgres" if "postgres" in known else "nobody"


def memory() -> str | None:
    """A folder in memory if there is room: each database is 300 files, slow to delete from a disk."""
    shared = Path("/dev/shm")
    return str(shared) if shared.is_dir() and shutil.disk_usage(shared).free > 1 << 30 else None


def end_with_the_tests() -> None:
    """Ask Linux to end this process with its parent, even when the parent is killed."""
    set_parent_death_signal = 1
    ctypes.CDLL(None).prctl(set_parent_death_signal, signal.SIGQUIT)


def wait_until_it_answers(server: "subprocess.Popen[bytes]", port: int, log: Path) -> None:
    """A port that is open is not enough: at first the server says that it is starting up."""
    deadline = time.monotonic() + START_SECONDS
    while time.monotonic() < deadline and server.poll() is None:
        try:
            psycopg.connect(host="127.0.0.1", port=port, user="tester", dbname="postgres", connect_timeout=5).close()
        except psycopg.OperationalError:
            time.sleep(0.05)
        else:
            return
    pytest.fail(f"the PostgreSQL server did not start: {log.read_text()[-2000:]}")


def make_cluster(folder: Path, initdb: str, user: str | None) -> None:
    make = [initdb, "-D", "data", "-U", "tester", "-A", "trust", "-E", "UTF8", "--no-locale", "--no-sync"]
    made = subprocess.run(make, check=False, cwd=folder, capture_output=True, text=True, user=user)
    if made.returncode:
        pytest.fail(f"initdb failed: {made.stderr[-2000:]}")


def start_server(folder: Path, postgres: str, user: str | None, port: int, *more: str) -> "subprocess.Popen[bytes]":
    options = [f"port={port}", "listen_addresses=127.0.0.1", f"unix_socket_directories={folder}", *FAST, *more]
    with (folder / "log").open("wb") as log:
        return subprocess.Popen(
            [postgres, "-D", "data", *(part for option in options for part in ("-c", option))],
            cwd=folder,
            stdout=log,
            stderr=log,
            user=user,
            preexec_fn=end_with_the_tests,  # noqa: PLW1509 - it only calls prctl, which takes no lock
        )


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@pytest.fixture(scope="session")
def postgresql_server() -> Iterator[str]:
    """URL of a running server's first database: HYBRIDSEARCH_TEST_POSTGRESQL, or one started here."""
    given = os.environ.get(GIVEN)
    if given:
        yield given
        return
    initdb, postgres = program("initdb"), program("postgres")
    if initdb is None or postgres is None:
        message = f"no PostgreSQL server program; install postgresql or set {GIVEN}"
        if os.environ.get("CI") == "true":
            pytest.fail(message)
        pytest.skip(message)
    folder = Path(tempfile.mkdtemp(prefix="hybridsearch-postgresql-", dir=memory()))
    user, port = server_user(), free_port()
    if user is not None:
        shutil.chown(folder, user)
    try:
        make_cluster(folder, initdb, user)
        server = start_server(folder, postgres, user, port)
        try:
            wait_until_it_answers(server, port, folder / "log")
            yield f"postgresql+psycopg://tester@127.0.0.1:{port}/postgres"
        finally:
            server.send_signal(signal.SIGQUIT)  # at once: its data is not needed any more
            server.wait(timeout=20)
    finally:
        shutil.rmtree(folder, ignore_errors=True)


class Server:
    """A PostgreSQL server of a test's own, to be stopped and started."""

    def __init__(self, folder: Path, postgres: str, user: str | None) -> None:
        self._folder, self._postgres, self._user, self._port = folder, postgres, user, free_port()
        self.url = f"postgresql+psycopg://tester@127.0.0.1:{self._port}/postgres"
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        # As servers usually are: a commit that was told survives the end of the process.
        options = (self._folder, self._postgres, self._user, self._port)
        self._process = start_server(*options, "synchronous_commit=on")
        wait_until_it_answers(self._process, self._port, self._folder / "log")

    def stop(self, how: signal.Signals = signal.SIGINT) -> None:
        """SIGINT ends all connections at once, SIGQUIT does not even finish what it writes."""
        if self._process is not None:
            self._process.send_signal(how)
            self._process.wait(timeout=20)
            self._process = None


@pytest.fixture
def own_server() -> Iterator[Server]:
    initdb, postgres = program("initdb"), program("postgres")
    if initdb is None or postgres is None:
        pytest.skip("no PostgreSQL server program; install postgresql")
    folder = Path(tempfile.mkdtemp(prefix="hybridsearch-postgresql-", dir=memory()))
    user = server_user()
    if user is not None:
        shutil.chown(folder, user)
    make_cluster(folder, initdb, user)
    server = Server(folder, postgres, user)
    server.start()
    yield server
    server.stop(signal.SIGQUIT)
    shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture(scope="session")
def new_database(postgresql_server: str) -> Iterator[Callable[[], str]]:
    """Makes empty PostgreSQL databases."""
    server = create_engine(postgresql_server, isolation_level="AUTOCOMMIT")
    numbers = count()
    made: list[str] = []

    def make() -> str:
        made.append(f"hybridsearch_test_{os.getpid()}_{next(numbers)}")
        with server.connect() as connection:
            connection.execute(text(f"CREATE DATABASE {made[-1]}"))
        return make_url(postgresql_server).set(database=made[-1]).render_as_string(hide_password=False)

    yield make
    if os.environ.get(GIVEN):  # a server started here is deleted as a whole
        with server.connect() as connection:
            for name in made:
                connection.execute(text(f"DROP DATABASE {name} WITH (FORCE)"))
    server.dispose()


@pytest.fixture(params=["sqlite", "postgresql"])
def engine_name(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def new_url(engine_name: str, request: pytest.FixtureRequest, tmp_path: Path) -> Callable[[], str]:
    """Makes empty places for stores, on each engine."""
    if engine_name == "sqlite":
        numbers = count()
        return lambda: f"sqlite:///{tmp_path}/new{next(numbers)}.db"
    make: Callable[[], str] = request.getfixturevalue("new_database")
    return make


@pytest.fixture
def url(new_url: Callable[[], str]) -> str:
    """An empty place for a store, on each engine."""
    return new_url()


@pytest.fixture(scope="session")
def sqlite_store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A SQLite store that holds nothing, to be copied."""
    path = tmp_path_factory.mktemp("empty") / "store.db"
    Store.open(f"sqlite:///{path}").close()
    return path


@pytest.fixture(scope="session")
def postgresql_store(new_database: Callable[[], str]) -> Iterator[Callable[[], str]]:
    """Empties one PostgreSQL store and gives its URL: a new database for every test would take most of the time."""
    url = new_database()
    Store.open(url).close()
    engine = create_engine(url, isolation_level="AUTOCOMMIT")

    def emptied() -> str:
        with engine.connect() as connection:
            connection.execute(text(f"TRUNCATE {', '.join(METADATA.tables)} RESTART IDENTITY"))
        return url

    yield emptied
    engine.dispose()


class Clock:
    """Time that passes only when it is told to."""

    def __init__(self) -> None:
        self.now = 1_700_000_000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def store_url(engine_name: str, request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """A store that holds nothing, on each engine."""
    if engine_name == "sqlite":
        shutil.copy(request.getfixturevalue("sqlite_store"), tmp_path / "store.db")
        return f"sqlite:///{tmp_path}/store.db"
    return str(request.getfixturevalue("postgresql_store")())


@pytest.fixture
def store(store_url: str, clock: Clock) -> Iterator[Store]:
    with Store.open(store_url, clock=clock) as opened:
        yield opened


@pytest.fixture
def study(store: Store) -> StudyRecord:
    """A study called `recall`."""
    return store.create_study(
        "recall",
        '{"study":"recall"}',
        seed=7,
        space_json='{"name":"tiny"}',
        versions={"hybridsearch": "0.1.0"},
        evaluation_digest="d" * 64,
    )


@pytest.fixture
def candidate() -> Callable[..., Candidate]:
    """Makes the candidate with that number, or with that hash."""

    def make(number: int = 0, *, digest: str = "", state_bytes: int = 4096) -> Candidate:
        digest = digest or hashlib.sha256(str(number).encode()).hexdigest()
        return Candidate(
            hash=digest,
            canonical=f'{{"width":{64 + number}}}',
            name=f"gdn3.full1-{digest[:8]}",
            parameters=3_000_000_000 + number,
            state_bytes=state_bytes,
            flops_per_token=1 << 40,
        )

    return make


@pytest.fixture
def report() -> Callable[..., Report]:
    """Makes a full report of a trial at a rung; its numbers have no short decimal form."""

    def make(trial: int = 0, rung: int = 0, recall: float = 1 / 3) -> Report:
        shape = Measurement(
            phase="decode", context=4096, batch=8, tokens_per_second=1e5 / 7, low=1e5 / 9, high=2e5 / 13, repeats=7
        )
        return Report(
            trial=trial,
            rung=rung,
            steps=250 * (rung + 1),
            metrics={"recall": recall, "answer_loss": 5e-324, "cache_bytes": 81920.0, shape.key: 1e5 / 7},
            replicates={"recall": (0.1 + 0.2, 1 / 3), "answer_loss": ()},
            measurements=(shape,),
            seconds=12.5,
            device="µ-machine, torch 2.13",
            peak_bytes=1 << 36,
        )

    return make


ROADS: dict[TrialState, tuple[TrialState, ...]] = {
    TrialState.WAITING: (),
    TrialState.RUNNING: (TrialState.RUNNING,),
    TrialState.PAUSED: (TrialState.RUNNING, TrialState.PAUSED),
    TrialState.FINISHED: (TrialState.RUNNING, TrialState.FINISHED),
    TrialState.STOPPED: (TrialState.RUNNING, TrialState.STOPPED),
    TrialState.SCREENED: (TrialState.SCREENED,),
    TrialState.FAILED: (TrialState.RUNNING, TrialState.FAILED),
}
"""How a new trial gets into each state."""


@pytest.fixture
def drive(store: Store, report: Callable[..., Report]) -> Callable[[int, TrialState], None]:
    """Gives a new trial of study `recall` one report, and brings it into a state."""

    def run(number: int, state: TrialState) -> None:
        store.add_report("recall", report(number))
        for step in ROADS[state]:
            reason = FailureReason.OUT_OF_MEMORY if step is TrialState.FAILED else None
            store.set_state("recall", number, step, reason=reason)

    return run
