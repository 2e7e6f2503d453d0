"""Adds to nodes of a fleet their heartbeats, their reports, and the states that operators set."""

import sqlalchemy as sa
from alembic import op

revision = "0015"
down_revision = "0014"


def upgrade() -> None:
    collation = "C" if op.get_bind().dialect.name == "postgresql" else None

    def text(name: str, default: str) -> sa.Column[str]:
        kind = sa.Text(collation=collation)
        return sa.Column(name, kind, nullable=False, server_default=sa.text(f"'{default}'"))

    beat = sa.Column("beat", sa.BigInteger, nullable=False, server_default=sa.text("0"))
    op.add_column("node", beat)
    op.add_column("node", text("presence", "present"))
    op.add_column("node", text("state", "ready"))
    op.add_column("node", text("address", ""))
    op.add_column("node", text("version", ""))
    report = sa.Column("report", sa.JSON, nullable=False, server_default=sa.text("'{}'"))
    op.add_column("node", report)
