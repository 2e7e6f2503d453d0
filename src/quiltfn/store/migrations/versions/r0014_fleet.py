"""Adds the fleet that the database belongs to, if any."""

import sqlalchemy as sa
from alembic import op

revision = "0014"
down_revision = "0013"


# Compared by its bytes, as all other text in PostgreSQL.
TEXT = sa.Text().with_variant(sa.Text(collation="C"), "postgresql")


def upgrade() -> None:
    op.create_table("fleet", sa.Column("id", TEXT, primary_key=True))
