"""Run by Alembic, not imported: migrates over the connection that `upgrade` was given."""

from alembic import context

from quiltfn.store.database.tables import metadata

context.configure(connection=context.config.attributes["connection"], target_metadata=metadata)
with context.begin_transaction():
    context.run_migrations()
