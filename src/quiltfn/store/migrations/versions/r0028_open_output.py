"""Adds an index of unfinished records with output of attempts, which retention can remove."""

import sqlalchemy as sa
from alembic import op

revision = "0028"
down_revision = "0027"


def upgrade() -> None:
    has_output = sa.text("status IN ('queued', 'running') AND size_bytes > 600")
    op.create_index(
        "invocation_open_output",
        "invocation",
        ["tenant_id", "invocation_id", "size_bytes", "status"],
        sqlite_where=has_output,
        postgresql_where=has_output,
    )
