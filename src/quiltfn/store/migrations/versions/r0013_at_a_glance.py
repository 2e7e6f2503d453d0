"""What calls came to over time, URLs of functions, and quotas of tenants."""

import sqlalchemy as sa
from alembic import op

revision = "0013"
down_revision = "0012"


def upgrade() -> None:
    make_statistics()
    op.create_table(
        "function_url",
        sa.Column(
            "function_id",
            sa.Text,
            sa.ForeignKey("function.id", ondelete="CASCADE"),
            primary_key=True,
        ),
        sa.Column("url", sa.JSON, nullable=False),
    )
    op.create_table(
        "tenant_quota",
        sa.Column("tenant_id", sa.Text, primary_key=True),
        sa.Column("quota", sa.JSON, nullable=False),
    )


def make_statistics() -> None:
    op.create_table(
        "call_stats",
        sa.Column("tenant_id", sa.Text, primary_key=True),
        sa.Column("step_s", sa.Integer, primary_key=True),
        sa.Column("start", sa.BigInteger, primary_key=True),
        sa.Column("function_id", sa.Text, primary_key=True),
        sa.Column("stats", sa.LargeBinary, nullable=False),
        sqlite_with_rowid=False,
    )
    op.create_index("call_stats_of_function", "call_stats", ["function_id", "step_s", "start"])
    op.create_index("call_stats_by_age", "call_stats", ["step_s", "start"])
    op.create_table(
        "counted_call",
        sa.Column("invocation_id", sa.Text, primary_key=True),
        sa.Column("ended_at", sa.BigInteger, nullable=False),
        sqlite_with_rowid=False,
    )
    op.create_index("counted_call_age", "counted_call", ["ended_at"])
    counted = "kind = 'stats' AND tenant_id = OLD.tenant_id"
    for change, statement in (
        (
            "added AFTER INSERT",
            "INSERT INTO usage VALUES ('stats', NEW.tenant_id, 150 + length(NEW.stats), 1) "
            "ON CONFLICT (kind, tenant_id) DO UPDATE "
            "SET bytes = bytes + excluded.bytes, number = number + 1",
        ),
        (
            "removed AFTER DELETE",
            "UPDATE usage SET bytes = bytes - 150 - length(OLD.stats), number = number - 1 "
            f"WHERE {counted}",
        ),
        (
            "changed AFTER UPDATE OF stats",
            "UPDATE usage SET bytes = bytes - length(OLD.stats) + length(NEW.stats) "
            f"WHERE {counted}",
        ),
    ):
        op.execute(f"CREATE TRIGGER call_stats_{change} ON call_stats BEGIN {statement}; END")
