"""Adds statistics of invocations, URLs of functions, quotas of tenants, lists of all invocations,
and names of keys.
"""

import sqlalchemy as sa
from alembic import op

revision = "0013"
down_revision = "0012"


def upgrade() -> None:
    op.add_column(
        "invocation",
        sa.Column("memory_mib", sa.Integer, nullable=False, server_default=sa.text("0")),
    )
    make_statistics()
    index_calls()
    op.add_column("api_key", sa.Column("label", sa.Text))
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


def index_calls() -> None:
    """Indices that contain all columns for filters, for lists of one function's or one tenant's
    invocations.
    """
    filters = ["cold_start", "duration_ms", "source", "version"]
    of_function, of_tenant = ["function_id", "invocation_id"], ["tenant_id", "invocation_id"]
    parent = ["parent_invocation_id", "invocation_id"]
    for name, columns, condition in (
        ("invocation_listing", [*of_function, "status", *filters], None),
        (
            "invocation_of_tenant",
            [*of_tenant, "size_bytes", "status", "function_id", *filters],
            "status NOT IN ('queued', 'running')",
        ),
        ("invocation_open", [*of_tenant, "status"], "status IN ('queued', 'running')"),
        ("invocation_children", parent, "parent_invocation_id IS NOT NULL"),
    ):
        if name != "invocation_children":
            op.drop_index(name, "invocation")
        where = None if condition is None else sa.text(condition)
        op.create_index(name, "invocation", columns, sqlite_where=where, postgresql_where=where)


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
