"""Runs migrations on the connection that `omni_jobs.store.schema` hands over; each in a transaction of its own."""

from alembic import context
from sqlalchemy import text

connection = context.config.attributes["connection"]
# A migration waits for locks only so long, then gives way to the traffic.
connection.execute(text("set lock_timeout = '10s'"))
connection.execute(text("set statement_timeout = '15min'"))
connection.execute(text("create schema if not exists omni"))
connection.commit()
context.configure(
    connection=connection,
    version_table="schema_version",
    version_table_schema="omni",
    transaction_per_migration=True,
)
with context.begin_transaction():
    context.run_migrations()
connection.commit()
