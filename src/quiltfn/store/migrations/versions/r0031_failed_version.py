"""The new version of a function that cannot serve, which its error message names."""

import sqlalchemy as sa
from alembic import op

revision = "0031"
down_revision = "0030"


def upgrade() -> None:
    op.add_column("function", sa.Column("failed_version", sa.Integer, nullable=True))
