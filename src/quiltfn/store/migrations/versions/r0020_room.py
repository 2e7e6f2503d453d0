"""Adds a runtime's limits of processes, /tmp, files and descriptors in a sandbox."""

import sqlalchemy as sa
from alembic import op

revision = "0020"
down_revision = "0019"


def upgrade() -> None:
    for name in ("process_limit", "tmp_limit_mb", "file_limit_mb", "open_files_limit"):
        op.add_column("runtime", sa.Column(name, sa.Integer, nullable=True))
