"""The schema: migrations and tables agree, old stores are upgraded, newer and foreign ones are left alone."""

import sqlite3
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from alembic import command
from alembic.autogenerate import compare_metadata
from alembic.config import Config
from alembic.runtime.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import Connection, Engine, create_engine, inspect, make_url, text

from hybridsearch.db import schema
from hybridsearch.db.connect import make_engine, parse_url, writers
from hybridsearch.db.schema import HEAD, MIGRATIONS, VERSION_TABLE
from hybridsearch.db.store import Store
from hybridsearch.db.tables import METADATA
from hybridsearch.errors import FailureReason, StoreUnavailable
from hybridsearch.trial import TrialState

OLD = Path(__file__).parent / "old"


def alembic_config() -> Config:
    config = Config()
    config.set_main_option("script_location", MIGRATIONS)
    return config


REVISIONS = [script.revision for script in ScriptDirectory.from_config(alembic_config()).walk_revisions()][::-1]
"""Oldest first."""


@pytest.fixture
def engine(url: str) -> Iterator[Engine]:
    plain = create_engine(parse_url(url))
    yield plain
    plain.dispose()


def migrate(url: str, revision: str) -> None:
    engine = make_engine(parse_url(url), migrating=True)
    config = alembic_config()
    with writers(engine).begin() as connection:
        config.attributes["connection"] = connection
        command.upgrade(config, revision)
    engine.dispose()


def test_the_stated_head_is_the_newest_migration() -> None:
    assert ScriptDirectory.from_config(alembic_config()).get_heads() == [HEAD]
    assert REVISIONS[-1] == HEAD


def test_migrated_tables_are_the_declared_ones(url: str, engine: Engine) -> None:
    Store.open(url).close()
    with engine.connect() as connection:
        context = MigrationContext.configure(connection, opts={"version_table": VERSION_TABLE})
        assert compare_metadata(context, METADATA) == []
        names = {table: _constraints(connection, table) for table in METADATA.tables}
    declared = {
        name: {str(constraint.name) for constraint in table.constraints} for name, table in METADATA.tables.items()
    }
    assert names == declared


def _constraints(connection: Connection, table: str) -> set[str]:
    look = inspect(connection)
    found: list[Any] = [
        look.get_pk_constraint(table),
        *look.get_foreign_keys(table),
        *look.get_unique_constraints(table),
    ]
    return {constraint["name"] for constraint in found}


@pytest.mark.parametrize("revision", [None, *REVISIONS])
def test_every_older_schema_is_upgraded(url: str, engine: Engine, revision: str | None) -> None:
    if revision is not None:
        migrate(url, revision)
    with Store.open(url) as store:
        store.create_study("s", "{}", seed=1, space_json="{}", versions={})
    with engine.connect() as connection:
        assert schema.version(connection) == HEAD


@pytest.mark.parametrize("revision", REVISIONS)
def test_an_old_file_keeps_its_content(tmp_path: Path, revision: str) -> None:
    path = tmp_path / "store.db"
    with sqlite3.connect(path) as connection:
        connection.executescript((OLD / f"{revision}.sql").read_text(encoding="utf-8"))
    connection.close()
    with Store.open(f"sqlite:///{path}") as store:
        study = store.study("recall")
        assert (study.seed, study.elapsed, study.versions) == (7, 42.5, {"hybridsearch": "0.1.0"})
        first, second = store.trials("recall")
        assert (first.state, second.state) == (TrialState.FINISHED, TrialState.FAILED)
        assert (second.reason, second.message, second.parents) == (FailureReason.OUT_OF_MEMORY, "8 GiB", (0,))
        assert first.candidate == store.candidate("ab12", study="recall")
        assert [report.rung for report in first.reports] == [0, 1]
        assert first.reports[1].metrics == {"recall": 1 / 3}
        assert first.reports[1].replicates == {"recall": (0.1 + 0.2, 0.25)}
        assert [shape.key for shape in first.reports[1].measurements] == ["decode_tokens_per_second/4096x8"]
        assert [event.kind for event in store.events("recall")] == [
            "waiting",
            "promote",
            "finished",
            "waiting",
            "failed",
        ]


def test_a_newer_store_is_left_alone(url: str, engine: Engine) -> None:
    Store.open(url).close()
    with engine.begin() as connection:
        connection.execute(text(f"UPDATE {VERSION_TABLE} SET version_num = '0999'"))
    with pytest.raises(StoreUnavailable) as error:
        Store.open(url)
    for part in ("`0999`", "newer hybridsearch", f"up to `{HEAD}`", "upgrade hybridsearch"):
        assert part in str(error.value)
    with engine.connect() as connection:
        assert schema.version(connection) == "0999"


def test_tables_of_another_program_are_left_alone(url: str, engine: Engine) -> None:
    with engine.begin() as connection:
        connection.execute(text("CREATE TABLE trials (trial_id INTEGER PRIMARY KEY)"))
    with pytest.raises(StoreUnavailable, match=r"another program keeps its tables there \(trials\)"):
        Store.open(url)
    with engine.connect() as connection:
        assert inspect(connection).get_table_names() == ["trials"]


def test_mlflow_may_live_in_the_same_database(url: str, engine: Engine) -> None:
    with engine.begin() as connection:
        connection.execute(text("CREATE TABLE alembic_version (version_num VARCHAR(32) PRIMARY KEY)"))
        connection.execute(text("INSERT INTO alembic_version VALUES ('c48cb773bb87')"))
    with Store.open(url) as store:
        assert store.studies() == []
    with engine.connect() as connection:
        assert connection.execute(text("SELECT version_num FROM alembic_version")).scalars().all() == ["c48cb773bb87"]


def test_a_migration_that_fails_leaves_the_old_schema(
    url: str, engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    def upgrade_and_fail(config: Config, revision: str) -> None:
        upgrade(config, revision)
        raise KeyboardInterrupt

    upgrade = command.upgrade
    with monkeypatch.context() as interrupted:
        interrupted.setattr(command, "upgrade", upgrade_and_fail)
        with pytest.raises(KeyboardInterrupt):
            Store.open(url)
    with engine.connect() as connection:
        assert inspect(connection).get_table_names() == []
    with Store.open(url) as store:
        assert store.studies() == []


def test_a_sqlite_file_of_another_program_keeps_its_kind_of_log(tmp_path: Path) -> None:
    path = tmp_path / "other.db"
    with sqlite3.connect(path) as connection:
        connection.execute("CREATE TABLE notes (text TEXT)")
    with pytest.raises(StoreUnavailable):
        Store.open(f"sqlite:///{path}", create=False)
    assert connection.execute("PRAGMA journal_mode").fetchone() == ("delete",)
    connection.close()


def test_sqlite_connections_are_set_up(sqlite_store: Path) -> None:
    engine = make_engine(parse_url(f"sqlite:///{sqlite_store}"))
    with engine.connect() as connection:
        values = {
            name: connection.execute(text(f"PRAGMA {name}")).scalar()
            for name in ("journal_mode", "synchronous", "foreign_keys", "busy_timeout")
        }
    engine.dispose()
    assert values == {"journal_mode": "wal", "synchronous": 1, "foreign_keys": 1, "busy_timeout": 30_000}


def test_postgresql_is_reached_by_its_short_name(postgresql_store: Callable[[], str]) -> None:
    short = make_url(postgresql_store()).set(drivername="postgresql").render_as_string(hide_password=False)
    with Store.open(short, create=False) as store:
        assert store.studies() == []
