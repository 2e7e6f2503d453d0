"""Adds the output of attempts that were followed by another attempt."""

import sqlalchemy as sa
from alembic import op

revision = "0027"
down_revision = "0026"


def upgrade() -> None:
    op.add_column("attempt", sa.Column("stdout", sa.LargeBinary, nullable=True))
    op.add_column("attempt", sa.Column("stderr", sa.LargeBinary, nullable=True))
