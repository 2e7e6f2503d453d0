"""Adds the base image of a runtime, and its program that runs handlers."""

import sqlalchemy as sa
from alembic import op

revision = "0019"
down_revision = "0018"


def upgrade() -> None:
    # PostgreSQL compares every text by its bytes; see postgresql_0013.sql.
    text = sa.Text().with_variant(sa.Text(collation="C"), "postgresql")
    op.add_column("runtime", sa.Column("base_image", text))
    op.add_column("runtime", sa.Column("interpreter", text, nullable=False, server_default=""))
