"""Adds to audit entries why the server changed something by itself."""

import sqlalchemy as sa
from alembic import op

revision = "0023"
down_revision = "0022"


def upgrade() -> None:
    # PostgreSQL compares every text by its bytes; see postgresql_0013.sql.
    kind = sa.Text().with_variant(sa.Text(collation="C"), "postgresql")
    op.add_column("audit", sa.Column("note", kind, nullable=True))
