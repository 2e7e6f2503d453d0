"""Adds the state of the wall clock, which survives restarts."""

import sqlalchemy as sa
from alembic import op

revision = "0007"
down_revision = "0006"


def upgrade() -> None:
    op.create_table(
        "clock",
        sa.Column("id", sa.Integer, primary_key=True),
        sa.Column("boot_id", sa.Text, nullable=False),
        sa.Column("offset_s", sa.Float, nullable=False),
        sa.Column("settled_at", sa.BigInteger, nullable=False),
    )
