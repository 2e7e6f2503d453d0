"""Adds the images that each node of a fleet has."""

import sqlalchemy as sa
from alembic import op

revision = "0017"
down_revision = "0016"


def upgrade() -> None:
    # PostgreSQL compares every text by its bytes; see postgresql_0013.sql.
    identity = sa.Text().with_variant(sa.Text(collation="C"), "postgresql")
    op.create_table(
        "image_copy",
        sa.Column("digest", identity, primary_key=True),
        sa.Column("node", identity, primary_key=True),
    )
