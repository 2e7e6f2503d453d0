"""Stores output as bytes, and the number of dropped bytes.

Existing output stays text: a column of SQLite can have both, and rewriting every record could take
an hour.
"""

import sqlalchemy as sa
from alembic import op

revision = "0008"
down_revision = "0007"


def upgrade() -> None:
    for name in ("stdout_dropped", "stderr_dropped"):
        op.add_column(
            "invocation",
            sa.Column(name, sa.BigInteger, nullable=False, server_default=sa.text("0")),
        )
