"""How alembic runs: always on the connection, and in the transaction, of the caller."""

from alembic import context

from hubstate_registry.storage.schema import metadata

connection = context.config.attributes["connection"]
context.configure(connection=connection, target_metadata=metadata, render_as_batch=True)
with context.begin_transaction():
    context.run_migrations()
