"""What Alembic runs: all steps in the transaction of the connection that it is given, which holds the lock."""

from alembic import context

from service.events.tables import METADATA

context.configure(connection=context.config.attributes["connection"], target_metadata=METADATA)
with context.begin_transaction():
    context.run_migrations()
