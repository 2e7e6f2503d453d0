"""Output of calls as bytes, and how much of it was dropped.

What was stored so far is text and stays as it is: a column of SQLite holds both, and rewriting
every record could take an hour.
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
