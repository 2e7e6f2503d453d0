"""How many bytes each tenant's rows take: counted once, here, and kept up by triggers from now on.

Records that are there have their output where only reading all of it would tell its size; they
count as if they had none, until they are removed.
"""

import sqlalchemy as sa
from alembic import op

from quiltfn.store.usage import KINDS, RECORD_BYTES, triggers

revision = "0009"
down_revision = "0008"


def upgrade() -> None:
    op.create_table(
        "usage",
        sa.Column("kind", sa.Text, primary_key=True),
        sa.Column("tenant_id", sa.Text, primary_key=True),
        sa.Column("bytes", sa.BigInteger, nullable=False),
        sa.Column("number", sa.BigInteger, nullable=False),
    )
    op.add_column(
        "invocation",
        sa.Column(
            "size_bytes", sa.BigInteger, nullable=False, server_default=sa.text(str(RECORD_BYTES))
        ),
    )
    op.create_index(
        "invocation_of_tenant", "invocation", ["tenant_id", "invocation_id", "size_bytes"]
    )
    op.create_index("operation_listing", "operation", ["tenant_id", "operation_id"])
    has_body = sa.text("length(body) > 0")
    op.create_index(
        "idempotent_answer_with_body",
        "idempotent_answer",
        ["tenant_id", "made_at"],
        sqlite_where=has_body,
        postgresql_where=has_body,
    )
    for kind in KINDS:
        size = kind.size.replace("ROW.", "")
        op.execute(
            f"INSERT INTO usage SELECT '{kind.name}', tenant_id, sum({size}), count(*) "
            f"FROM {kind.table} GROUP BY tenant_id"
        )
        for trigger in triggers(kind):
            op.execute(trigger)
