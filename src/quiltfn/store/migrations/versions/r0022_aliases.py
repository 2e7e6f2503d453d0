"""Adds the aliases of functions."""

import sqlalchemy as sa
from alembic import op

revision = "0022"
down_revision = "0021"


def upgrade() -> None:
    # PostgreSQL compares every text by its bytes; see postgresql_0013.sql.
    kind = sa.Text().with_variant(sa.Text(collation="C"), "postgresql")
    op.create_table(
        "function_alias",
        sa.Column(
            "function_id",
            kind,
            sa.ForeignKey("function.id", ondelete="CASCADE"),
            primary_key=True,
        ),
        sa.Column("name", kind, primary_key=True),
        sa.Column("alias", sa.JSON, nullable=False),
        sa.Column("revision", sa.Integer, nullable=False),
    )
