"""Alembic runs this file, which is not imported: migrates with the connection given to
`upgrade`.
"""

from alembic import context

from quiltfn.store.database.tables import metadata

context.configure(connection=context.config.attributes["connection"], target_metadata=metadata)
with context.begin_transaction():
    context.run_migrations()
