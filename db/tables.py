"""The five tables. Times are Unix seconds (UTC), sizes are bytes; a change here needs a migration.

studies --< trials >-- candidates        one row a trial, one row an architecture
               |
               +--< reports              one row a trial and rung
               `--< events               one row a decision
"""

from collections.abc import Mapping
from functools import cache, partial
from typing import TYPE_CHECKING, Any

from sqlalchemy import (
    JSON,
    BigInteger,
    Column,
    Connection,
    Double,
    ForeignKey,
    ForeignKeyConstraint,
    Index,
    Integer,
    MetaData,
    Row,
    String,
    Table,
    Text,
    UniqueConstraint,
)
from sqlalchemy.dialects import sqlite

if TYPE_CHECKING:
    from sqlalchemy.dialects import postgresql

# SQLite numbers rows by itself only in a column of type INTEGER.
COUNTED = BigInteger().with_variant(Integer(), "sqlite")

AnyRow = Row[*tuple[Any, ...]]
"""A result row of any width, read by the names of its columns."""

METADATA = MetaData(
    naming_convention={
        "pk": "pk_%(table_name)s",
        "fk": "fk_%(table_name)s_%(column_0_name)s",
        "uq": "uq_%(table_name)s_%(column_0_name)s",
        "ix": "ix_%(table_name)s_%(column_0_N_name)s",
    }
)
"""Constraints are named, so that later migrations can drop them."""

# No mapped classes: the ORM takes 0.1 s to import, and every command would wait for it.
given = partial(Column, nullable=False)
"""A column that every row has a value in."""
key = partial(Column, primary_key=True, autoincrement=False)

STUDIES = Table(
    "studies",
    METADATA,
    Column("id", COUNTED, primary_key=True),
    given("name", String(64)),
    given("created", Double()),
    given("settings", Text()),
    given("space", Text()),
    given("seed", BigInteger()),
    given("versions", JSON()),
    given("evaluation_digest", String(64)),
    given("elapsed", Double()),
    Column("owner", Text()),
    Column("heartbeat", Double()),
    UniqueConstraint("name"),
)
"""Searches."""

CANDIDATES = Table(
    "candidates",
    METADATA,
    key("hash", String(64)),
    given("canonical", Text()),
    given("name", Text()),
    given("parameters", BigInteger()),
)
"""Architectures by content. What their context decides (state, FLOPs) stands with the trial."""

TRIALS = Table(
    "trials",
    METADATA,
    key("study_id", BigInteger()),
    key("number", BigInteger()),
    given("candidate_hash", String(64), ForeignKey("candidates.hash"), index=True),
    given("state_bytes", BigInteger()),
    given("flops_per_token", BigInteger()),
    given("sampler", Text()),
    given("parents", JSON()),
    given("seed", BigInteger()),
    Column("control", Text()),
    given("note", Text()),
    given("state", String(16)),
    Column("reason", String(32)),
    given("message", Text()),
    given("created", Double()),
    Column("started", Double()),
    Column("ended", Double()),
    ForeignKeyConstraint(["study_id"], ["studies.id"]),
    Index(None, "study_id", "state"),
)
"""One candidate in one study each."""

REPORTS = Table(
    "reports",
    METADATA,
    key("study_id", BigInteger()),
    key("trial", BigInteger()),
    key("rung", BigInteger()),
    given("time", Double()),
    given("steps", BigInteger()),
    given("metrics", JSON()),
    given("replicates", JSON()),
    given("measurements", JSON()),
    given("seconds", Double()),
    given("device", Text()),
    given("peak_bytes", BigInteger()),
    ForeignKeyConstraint(["study_id", "trial"], ["trials.study_id", "trials.number"]),
)
"""What a worker said of a trial at a rung."""

EVENTS = Table(
    "events",
    METADATA,
    Column("id", COUNTED, primary_key=True),
    given("study_id", BigInteger()),
    given("time", Double()),
    Column("trial", BigInteger()),
    given("kind", String(32)),
    Column("rung", BigInteger()),
    Column("rank", BigInteger()),
    given("message", Text()),
    ForeignKeyConstraint(["study_id"], ["studies.id"]),
    Index(None, "study_id", "id"),
)
"""What was decided or happened, in order."""


def insert_new(connection: Connection, table: Table, values: Mapping[str, Any]) -> bool:
    """Insert a row unless one with its key is there; whether it was inserted."""
    statement = _insert_new(connection.dialect.name, table)
    return connection.execute(statement, values, execution_options={"preserve_rowcount": True}).rowcount == 1


@cache
def _insert_new(dialect: str, table: Table) -> "postgresql.Insert | sqlite.Insert":
    # Both databases spell ON CONFLICT alike, but SQLAlchemy keeps it in a class for each.
    if dialect == "postgresql":
        from sqlalchemy.dialects import postgresql  # 50 ms that a command on a SQLite file need not wait for

        return postgresql.insert(table).on_conflict_do_nothing()
    return sqlite.insert(table).on_conflict_do_nothing()
