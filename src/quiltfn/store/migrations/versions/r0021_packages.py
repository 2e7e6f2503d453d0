"""Adds the packages of a runtime, which are a separate image."""

import sqlalchemy as sa
from alembic import op

revision = "0021"
down_revision = "0020"


def upgrade() -> None:
    # PostgreSQL compares every text by its bytes; see postgresql_0013.sql.
    for name in ("packages", "packages_key"):
        kind = sa.Text().with_variant(sa.Text(collation="C"), "postgresql")
        op.add_column("runtime", sa.Column(name, kind, nullable=True))
