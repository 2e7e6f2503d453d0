"""Creates the table of the bytes in each tenant's rows: counted here once, and then by triggers.

Existing records count as if they had no output, since finding its size would require reading it.
"""

import sqlalchemy as sa
from alembic import op

revision = "0009"
down_revision = "0008"

# The sizes of rows: kind, table, size of the row ROW in SQL, columns that change the size.
KINDS = (
    ("record", "invocation", "ROW.size_bytes", "size_bytes"),
    (
        "answer",
        "idempotent_answer",
        "500 + length(ROW.path) + length(ROW.key) + length(ROW.headers) + length(ROW.body)",
        "headers, body",
    ),
    ("audit", "audit", "500 + length(ROW.credential) + length(ROW.request_id)", ""),
    ("operation", "operation", "500 + length(ROW.idempotency_key) + length(ROW.action_id)", ""),
)


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
        sa.Column("size_bytes", sa.BigInteger, nullable=False, server_default=sa.text("600")),
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
    for kind, table, row_size, changes in KINDS:
        size = row_size.replace("ROW.", "")
        op.execute(
            f"INSERT INTO usage SELECT '{kind}', tenant_id, sum({size}), count(*) "
            f"FROM {table} GROUP BY tenant_id"
        )
        new, old = row_size.replace("ROW", "NEW"), row_size.replace("ROW", "OLD")
        this = f"kind = '{kind}' AND tenant_id = OLD.tenant_id"
        op.execute(
            f"CREATE TRIGGER {table}_added AFTER INSERT ON {table} BEGIN "
            f"INSERT INTO usage VALUES ('{kind}', NEW.tenant_id, {new}, 1) "
            "ON CONFLICT (kind, tenant_id) DO UPDATE SET "
            "bytes = bytes + excluded.bytes, number = number + 1; END"
        )
        op.execute(
            f"CREATE TRIGGER {table}_removed AFTER DELETE ON {table} BEGIN "
            f"UPDATE usage SET bytes = bytes - ({old}), number = number - 1 WHERE {this}; END"
        )
        if changes:
            op.execute(
                f"CREATE TRIGGER {table}_changed AFTER UPDATE OF {changes} ON {table} "
                f"BEGIN UPDATE usage SET bytes = bytes + ({new}) - ({old}) WHERE {this}; END"
            )
