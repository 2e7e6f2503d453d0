"""Where the time of a call went, kept with its record; unknown of those so far."""

import sqlalchemy as sa
from alembic import op

revision = "0004"
down_revision = "0003"


def upgrade() -> None:
    op.add_column("invocation", sa.Column("timeline", sa.JSON, nullable=True))
