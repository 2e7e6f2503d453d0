"""Adds an operator's runtimes, and to every version a snapshot of its runtime."""

import sqlalchemy as sa
from alembic import op

revision = "0003"
down_revision = "0002"

# All earlier versions are command lines on the host image.
SHELL = (
    '{"id": "shell", "name": "shell", "kind": "shell", "image": null, "host": "", "command": [], '
    '"environment": {}, "isolation": "crun", "network": "none", "writable_paths": [], '
    '"created_at": 0}'
)


def upgrade() -> None:
    op.create_table(
        "runtime",
        sa.Column("name", sa.Text, primary_key=True),
        sa.Column("id", sa.Text, nullable=False),
        sa.Column("kind", sa.Text, nullable=False),
        sa.Column("image", sa.Text),
        sa.Column("host", sa.Text, nullable=False),
        sa.Column("command", sa.JSON, nullable=False),
        sa.Column("environment", sa.JSON, nullable=False),
        sa.Column("isolation", sa.Text, nullable=False),
        sa.Column("network", sa.Text, nullable=False),
        sa.Column("writable_paths", sa.JSON, nullable=False),
        sa.Column("created_at", sa.BigInteger, nullable=False),
    )
    op.add_column("version", sa.Column("pinned", sa.JSON, nullable=True))
    version = sa.table("version", sa.column("pinned", sa.Text))
    op.execute(version.update().values(pinned=SHELL))
    with op.batch_alter_table("version") as batch:
        batch.alter_column("pinned", existing_type=sa.JSON(), nullable=False)
