"""What calls came to over time, URLs of functions, and quotas of tenants."""

import sqlalchemy as sa
from alembic import op

revision = "0013"
down_revision = "0012"


def upgrade() -> None:
    op.create_table(
        "call_stats",
        sa.Column("function_id", sa.Text, primary_key=True),
        sa.Column("step_s", sa.Integer, primary_key=True),
        sa.Column("start", sa.BigInteger, primary_key=True),
        sa.Column("tenant_id", sa.Text, nullable=False),
        sa.Column("stats", sa.LargeBinary, nullable=False),
        sqlite_with_rowid=False,
    )
    op.create_index("call_stats_of_tenant", "call_stats", ["tenant_id", "step_s", "start"])
    op.create_index("call_stats_by_age", "call_stats", ["step_s", "start"])
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
