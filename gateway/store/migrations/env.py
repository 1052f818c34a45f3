"""How Alembic runs here: on the connection that it is given, in that connection's transaction.

For a developer: `alembic revision` works with this directory as `script_location` and a connection
in the configuration's attributes.
"""

from __future__ import annotations

from alembic import context

from gateway.store.tables import metadata

context.configure(
    connection=context.config.attributes["connection"],
    target_metadata=metadata,
    transactional_ddl=True,
    render_as_batch=True,
)
context.run_migrations()
