"""Brings a database to the schema of this program, once, however many processes open it at the same moment."""

from pathlib import Path

from sqlalchemy import URL, Connection, Engine, inspect, text

from hybridsearch.db.connect import keep_write_ahead_log, make_engine, writers
from hybridsearch.db.faults import folder_fault, shown
from hybridsearch.db.tables import METADATA
from hybridsearch.errors import StoreUnavailable

HEAD = "0001"
"""Newest migration; stated here so that an up-to-date store opens without loading Alembic."""
VERSION_TABLE = "hybridsearch_schema"
"""Not Alembic's usual name: MLflow keeps its own version under that one, perhaps in the same database."""
MIGRATIONS = "hybridsearch.db:migrations"
UPGRADE_LOCK = 0x48594253
"""Key of the PostgreSQL advisory lock that one upgrade at a time holds."""


def prepare(url: URL, engine: Engine, *, create: bool) -> None:
    """Make the database ready: its folder, its tables, its newest schema.

    Raises:
        StoreUnavailable: there is no store and `create` is false, or a newer or another program made it.
    """
    _prepare_folder(url, create=create)
    with engine.connect() as connection:
        found = version(connection)
    if found is None and not create:
        raise StoreUnavailable(f"store {shown(url)}: the database holds no studies yet; run a search first")
    if found != HEAD:
        _upgrade(url)
    keep_write_ahead_log(engine)


def version(connection: Connection) -> str | None:
    """The database's newest migration, or none when it holds no store."""
    if not inspect(connection).has_table(VERSION_TABLE):
        return None
    found = connection.execute(text(f"SELECT version_num FROM {VERSION_TABLE}")).scalar()
    return None if found is None else str(found)


def _prepare_folder(url: URL, *, create: bool) -> None:
    if url.get_backend_name() != "sqlite":
        return
    path = Path(url.database or "")
    if not create and not path.exists():
        raise StoreUnavailable(f"store {shown(url)}: there is no such file; run a search first, or correct the path")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise folder_fault(url, path.parent, error) from error


def _upgrade(url: URL) -> None:
    engine = make_engine(url, migrating=True)
    try:
        with writers(engine).begin() as connection:
            _migrate(url, connection)
    finally:
        engine.dispose()


def _migrate(url: URL, connection: Connection) -> None:
    """Run the missing migrations in the connection's transaction: all of them happen, or none."""
    from alembic import command
    from alembic.config import Config
    from alembic.script import ScriptDirectory

    if connection.dialect.name == "postgresql":
        connection.execute(text("SELECT pg_advisory_xact_lock(:key)"), {"key": UPGRADE_LOCK})
    config = Config()
    config.set_main_option("script_location", MIGRATIONS)
    config.attributes["connection"] = connection
    known = [script.revision for script in ScriptDirectory.from_config(config).walk_revisions()]
    _refuse_strangers(url, connection, known)
    command.upgrade(config, "head")
    if connection.dialect.name == "sqlite" and connection.execute(text("PRAGMA foreign_key_check")).first():
        raise StoreUnavailable(f"store {shown(url)}: rows refer to rows that are gone; restore a copy of the file")


def _refuse_strangers(url: URL, connection: Connection, known: list[str]) -> None:
    found = version(connection)
    if found is not None and found not in known:
        newer = f"its schema is `{found}`, made by a newer hybridsearch; this one knows up to `{known[0]}`"
        raise StoreUnavailable(f"store {shown(url)}: {newer}: upgrade hybridsearch, or choose another store")
    taken = sorted(set(inspect(connection).get_table_names()) & set(METADATA.tables))
    if found is None and taken:
        names = ", ".join(taken)
        raise StoreUnavailable(
            f"store {shown(url)}: another program keeps its tables there ({names}); choose another database"
        )
