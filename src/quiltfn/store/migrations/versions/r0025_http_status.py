"""The status of the HTTP response that a handler gave."""

import sqlalchemy as sa
from alembic import op

revision = "0025"
down_revision = "0024"


def upgrade() -> None:
    op.add_column("invocation", sa.Column("http_status", sa.Integer, nullable=True))
