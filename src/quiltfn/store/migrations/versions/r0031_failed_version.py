"""Adds the new version of a function that could not start, which its error message is about."""

import sqlalchemy as sa
from alembic import op

revision = "0031"
down_revision = "0030"


def upgrade() -> None:
    op.add_column("function", sa.Column("failed_version", sa.Integer, nullable=True))
