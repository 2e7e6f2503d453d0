"""Adds timelines to records; existing records have none."""

import sqlalchemy as sa
from alembic import op

revision = "0004"
down_revision = "0003"


def upgrade() -> None:
    op.add_column("invocation", sa.Column("timeline", sa.JSON, nullable=True))
