"""Creates functions, versions and invocations."""

import sqlalchemy as sa
from alembic import op

revision = "0001"
down_revision = None


def upgrade() -> None:
    op.create_table(
        "function",
        sa.Column("id", sa.Text, primary_key=True),
        sa.Column("tenant_id", sa.Text, nullable=False),
        sa.Column("name", sa.Text, nullable=False),
        sa.Column("cluster_id", sa.Text),
        sa.Column("description", sa.Text),
        sa.Column("owner_node_id", sa.Text, nullable=False),
        sa.Column("state", sa.Text, nullable=False),
        sa.Column("current_version", sa.Integer, nullable=False),
        sa.Column("min_instances", sa.Integer, nullable=False),
        sa.Column("max_instances", sa.Integer, nullable=False),
        sa.Column("created_at", sa.BigInteger, nullable=False),
        sa.Column("updated_at", sa.BigInteger, nullable=False),
        sa.Column("error_message", sa.Text),
        sa.Column("invocation_count", sa.BigInteger, nullable=False, server_default=sa.text("0")),
        sa.Column("error_count", sa.BigInteger, nullable=False, server_default=sa.text("0")),
        sa.Column("last_invoked_at", sa.BigInteger),
        sa.UniqueConstraint("tenant_id", "name", name="function_name"),
    )
    op.create_table(
        "version",
        sa.Column("id", sa.Text, primary_key=True),
        sa.Column(
            "function_id", sa.Text, sa.ForeignKey("function.id", ondelete="CASCADE"), nullable=False
        ),
        sa.Column("number", sa.Integer, nullable=False),
        sa.Column("digest", sa.Text, nullable=False),
        sa.Column("description", sa.Text),
        sa.Column("created_at", sa.BigInteger, nullable=False),
        sa.Column("handler", sa.Text, nullable=False),
        sa.Column("runtime", sa.Text, nullable=False),
        sa.Column("environment", sa.JSON, nullable=False),
        sa.Column("working_directory", sa.Text),
        sa.Column("memory_limit_mb", sa.Integer, nullable=False),
        sa.Column("cpu_limit_percent", sa.Float, nullable=False),
        sa.Column("timeout_seconds", sa.Integer, nullable=False),
        sa.Column("cleanup_on_exit", sa.Boolean, nullable=False),
        sa.UniqueConstraint("function_id", "number", name="version_number"),
    )
    create_invocation()
    op.create_table("deletion", sa.Column("function_id", sa.Text, primary_key=True))
    probe = op.create_table(
        "probe",
        sa.Column("id", sa.Integer, primary_key=True),
        sa.Column("count", sa.BigInteger, nullable=False),
    )
    op.bulk_insert(probe, [{"id": 1, "count": 0}])


def create_invocation() -> None:
    op.create_table(
        "invocation",
        sa.Column("invocation_id", sa.Text, primary_key=True),
        sa.Column("tenant_id", sa.Text, nullable=False),
        sa.Column("function_id", sa.Text, nullable=False),
        sa.Column("function_name", sa.Text, nullable=False),
        sa.Column("execution_node_id", sa.Text, nullable=False),
        sa.Column("status", sa.Text, nullable=False),
        sa.Column("started_at", sa.BigInteger),
        sa.Column("ended_at", sa.BigInteger),
        sa.Column("duration_ms", sa.BigInteger),
        sa.Column("exit_code", sa.Integer),
        sa.Column("stdout", sa.Text, nullable=False),
        sa.Column("stderr", sa.Text, nullable=False),
        sa.Column("error_message", sa.Text),
        sa.Column("cold_start", sa.Boolean, nullable=False),
    )
    op.create_index(
        "invocation_listing",
        "invocation",
        ["function_id", "invocation_id", "status", "cold_start", "duration_ms"],
    )
    unfinished = sa.text("status IN ('queued', 'running')")
    op.create_index(
        "invocation_open",
        "invocation",
        ["invocation_id"],
        sqlite_where=unfinished,
        postgresql_where=unfinished,
    )
