"""Adds the oldest version of quiltfn that may use the database."""

import sqlalchemy as sa
from alembic import op

revision = "0018"
down_revision = "0017"


def upgrade() -> None:
    # PostgreSQL compares every text by its bytes; see postgresql_0013.sql.
    version = sa.Text().with_variant(sa.Text(collation="C"), "postgresql")
    op.create_table("compatibility", sa.Column("oldest_version", version, primary_key=True))
    op.execute("INSERT INTO compatibility (oldest_version) VALUES ('0.1.0')")
