"""The five tables, typed. Times are Unix seconds (UTC), sizes are bytes; a change here needs a migration.

studies --< trials >-- candidates        one row a trial, one row an architecture
               |
               +--< reports              one row a trial and rung
               `--< events               one row a decision
"""

from collections.abc import Mapping
from functools import cache
from typing import Any

import sqlalchemy
from sqlalchemy import (
    JSON,
    BigInteger,
    Connection,
    Double,
    ForeignKey,
    ForeignKeyConstraint,
    Index,
    Integer,
    MetaData,
    Row,
    String,
    Text,
    UniqueConstraint,
)
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column

# SQLite numbers rows by itself only in a column of type INTEGER.
COUNTED = BigInteger().with_variant(Integer(), "sqlite")

AnyRow = Row[*tuple[Any, ...]]
"""A result row of any width, read by the names of its columns."""


class Table(DeclarativeBase):
    """What the tables share: named constraints, so that later migrations can drop them, and wide columns."""

    metadata = MetaData(
        naming_convention={
            "pk": "pk_%(table_name)s",
            "fk": "fk_%(table_name)s_%(column_0_name)s",
            "uq": "uq_%(table_name)s_%(column_0_name)s",
            "ix": "ix_%(table_name)s_%(column_0_N_name)s",
        }
    )
    type_annotation_map = {int: BigInteger(), float: Double(), str: Text()}  # noqa: RUF012 - read by SQLAlchemy


class StudyRow(Table):
    """One search."""

    __tablename__ = "studies"
    __table_args__ = (UniqueConstraint("name"),)

    id: Mapped[int] = mapped_column(COUNTED, primary_key=True)
    name: Mapped[str] = mapped_column(String(64))
    created: Mapped[float]
    settings: Mapped[str]
    space: Mapped[str]
    seed: Mapped[int]
    versions: Mapped[dict[str, str]] = mapped_column(JSON)
    evaluation_digest: Mapped[str] = mapped_column(String(64))
    elapsed: Mapped[float]
    owner: Mapped[str | None]
    heartbeat: Mapped[float | None]


class CandidateRow(Table):
    """One architecture by content. What its context decides (state, FLOPs) stands with the trial."""

    __tablename__ = "candidates"

    hash: Mapped[str] = mapped_column(String(64), primary_key=True)
    canonical: Mapped[str]
    name: Mapped[str]
    parameters: Mapped[int]


class TrialRow(Table):
    """One candidate in one study."""

    __tablename__ = "trials"
    __table_args__ = (
        ForeignKeyConstraint(["study_id"], ["studies.id"]),
        Index(None, "study_id", "state"),
    )

    study_id: Mapped[int] = mapped_column(primary_key=True, autoincrement=False)
    number: Mapped[int] = mapped_column(primary_key=True, autoincrement=False)
    candidate_hash: Mapped[str] = mapped_column(String(64), ForeignKey("candidates.hash"), index=True)
    state_bytes: Mapped[int]
    flops_per_token: Mapped[int]
    sampler: Mapped[str]
    parents: Mapped[list[int]] = mapped_column(JSON)
    seed: Mapped[int]
    control: Mapped[str | None]
    note: Mapped[str]
    state: Mapped[str] = mapped_column(String(16))
    reason: Mapped[str | None] = mapped_column(String(32))
    message: Mapped[str]
    created: Mapped[float]
    started: Mapped[float | None]
    ended: Mapped[float | None]


class ReportRow(Table):
    """What a worker said of a trial at a rung."""

    __tablename__ = "reports"
    __table_args__ = (ForeignKeyConstraint(["study_id", "trial"], ["trials.study_id", "trials.number"]),)

    study_id: Mapped[int] = mapped_column(primary_key=True, autoincrement=False)
    trial: Mapped[int] = mapped_column(primary_key=True, autoincrement=False)
    rung: Mapped[int] = mapped_column(primary_key=True, autoincrement=False)
    time: Mapped[float]
    steps: Mapped[int]
    metrics: Mapped[dict[str, float]] = mapped_column(JSON)
    replicates: Mapped[dict[str, list[float]]] = mapped_column(JSON)
    measurements: Mapped[list[dict[str, Any]]] = mapped_column(JSON)
    seconds: Mapped[float]
    device: Mapped[str]
    peak_bytes: Mapped[int]


class EventRow(Table):
    """One thing that was decided or happened, in order."""

    __tablename__ = "events"
    __table_args__ = (
        ForeignKeyConstraint(["study_id"], ["studies.id"]),
        Index(None, "study_id", "id"),
    )

    id: Mapped[int] = mapped_column(COUNTED, primary_key=True)
    study_id: Mapped[int]
    time: Mapped[float]
    trial: Mapped[int | None]
    kind: Mapped[str] = mapped_column(String(32))
    rung: Mapped[int | None]
    rank: Mapped[int | None]
    message: Mapped[str]


def plain(table: type[Table]) -> sqlalchemy.Table:
    """The table without its mapping: statements that change it need none."""
    return Table.metadata.tables[table.__tablename__]


def insert_new(connection: Connection, table: type[Table], values: Mapping[str, Any]) -> bool:
    """Insert a row unless one with its key is there; whether it was inserted."""
    statement = _insert_new(connection.dialect.name, table)
    return connection.execute(statement, values, execution_options={"preserve_rowcount": True}).rowcount == 1


@cache
def _insert_new(dialect: str, table: type[Table]) -> postgresql.Insert | sqlite.Insert:
    # Both databases spell ON CONFLICT alike, but SQLAlchemy keeps it in a class for each.
    if dialect == "postgresql":
        return postgresql.insert(plain(table)).on_conflict_do_nothing()
    return sqlite.insert(plain(table)).on_conflict_do_nothing()
