"""Runs the migrations on the connection that `hybridsearch.db.schema` hands over, inside its transaction."""

from alembic import context

from hybridsearch.db.schema import VERSION_TABLE
from hybridsearch.db.tables import METADATA

context.configure(
    connection=context.config.attributes["connection"],
    target_metadata=METADATA,
    version_table=VERSION_TABLE,
    render_as_batch=True,  # SQLite alters a table only by rebuilding it
)
with context.begin_transaction():
    context.run_migrations()
