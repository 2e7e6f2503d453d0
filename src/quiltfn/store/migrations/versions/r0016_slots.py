"""Adds the slots of functions: the maximum in a fleet, and those of each node."""

import sqlalchemy as sa
from alembic import op

revision = "0016"
down_revision = "0015"


def upgrade() -> None:
    # PostgreSQL compares every text by its bytes; see postgresql_0013.sql.
    identity = sa.Text().with_variant(sa.Text(collation="C"), "postgresql")
    op.create_table(
        "slot",
        sa.Column(
            "function_id",
            identity,
            sa.ForeignKey("function.id", ondelete="CASCADE"),
            primary_key=True,
        ),
        sa.Column("max_instances", sa.Integer, nullable=False),
        sa.Column("held", sa.JSON, nullable=False, server_default=sa.text("'{}'")),
    )
    op.execute(
        "INSERT INTO slot (function_id, max_instances) SELECT id, max_instances FROM function"
    )
