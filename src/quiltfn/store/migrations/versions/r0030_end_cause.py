"""Adds the causes of failed invocations and attempts as data."""

import sqlalchemy as sa
from alembic import op

revision = "0030"
down_revision = "0029"


def upgrade() -> None:
    for table in ("invocation", "attempt"):
        op.add_column(table, sa.Column("end_cause", sa.JSON, nullable=True))
