"""Adds the HTTP status of a handler's response."""

import sqlalchemy as sa
from alembic import op

revision = "0025"
down_revision = "0024"


def upgrade() -> None:
    op.add_column("invocation", sa.Column("http_status", sa.Integer, nullable=True))
