"""Prepares the store for several servers, and records for asynchronous invocations.

Functions get a revision, and every change gets a number, so that other servers can follow it. A
boot of a node, known by its epoch, owns its unfinished invocations, keys and operations. Existing
rows get epoch 0, which is before every boot.
"""

from typing import Any

import sqlalchemy as sa
from alembic import op

revision = "0011"
down_revision = "0010"

ZERO, ONE = sa.text("0"), sa.text("1")


def upgrade() -> None:
    op.create_table(
        "node",
        sa.Column("name", sa.Text, primary_key=True),
        sa.Column("epoch", sa.BigInteger, nullable=False),
    )
    op.create_table(
        "change",
        sa.Column("number", sa.BigInteger().with_variant(sa.Integer(), "sqlite"), primary_key=True),
        sa.Column("kind", sa.Text, nullable=False),
        sa.Column("tenant_id", sa.Text, nullable=False),
        sa.Column("object_id", sa.Text, nullable=False),
    )
    added: dict[str, list[sa.Column[Any]]] = {
        "function": [sa.Column("revision", sa.BigInteger, nullable=False, server_default=ONE)],
        "idempotent_answer": owner(),
        "operation": owner(),
        "invocation": [
            sa.Column("version", sa.Integer),
            sa.Column("source", sa.Text, nullable=False, server_default=sa.text("'sync'")),
            sa.Column("attempt", sa.Integer, nullable=False, server_default=ONE),
            sa.Column("due_at", sa.BigInteger),
            sa.Column("parent_invocation_id", sa.Text),
            sa.Column("origin_invocation_id", sa.Text),
            sa.Column("epoch", sa.BigInteger, nullable=False, server_default=ZERO),
        ],
    }
    for table, columns in added.items():
        for column in columns:
            op.add_column(table, column)


def owner() -> list[sa.Column[Any]]:
    return [
        sa.Column("node_id", sa.Text, nullable=False, server_default=sa.text("''")),
        sa.Column("epoch", sa.BigInteger, nullable=False, server_default=ZERO),
    ]
