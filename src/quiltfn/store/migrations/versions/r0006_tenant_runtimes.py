"""Assigns runtimes and images to tenants; existing ones stay available to all tenants."""

import sqlalchemy as sa
from alembic import op

revision = "0006"
down_revision = "0005"

# The tenant of shared runtimes and images, and the size of images whose size is unknown.
SHARED, NOT_MEASURED = "", -1


def upgrade() -> None:
    op.rename_table("runtime", "runtime_before")
    op.create_table(
        "runtime",
        sa.Column("tenant_id", sa.Text, primary_key=True),
        sa.Column("name", sa.Text, primary_key=True),
        sa.Column("id", sa.Text, nullable=False),
        sa.Column("kind", sa.Text, nullable=False),
        sa.Column("image", sa.Text),
        sa.Column("host", sa.Text, nullable=False),
        sa.Column("command", sa.JSON, nullable=False),
        sa.Column("environment", sa.JSON, nullable=False),
        sa.Column("isolation", sa.Text, nullable=False),
        sa.Column("network", sa.Text, nullable=False),
        sa.Column("writable_paths", sa.JSON, nullable=False),
        sa.Column("created_at", sa.BigInteger, nullable=False),
    )
    kept = "name, id, kind, image, host, command, environment, isolation, network, writable_paths"
    op.execute(
        f"INSERT INTO runtime (tenant_id, {kept}, created_at) "
        f"SELECT '{SHARED}', {kept}, created_at FROM runtime_before"
    )
    op.drop_table("runtime_before")
    op.create_table(
        "tenant_image",
        sa.Column("tenant_id", sa.Text, primary_key=True),
        sa.Column("digest", sa.Text, primary_key=True),
        sa.Column("counted_bytes", sa.BigInteger, nullable=False),
    )
    pinned = sa.table("version", sa.column("pinned", sa.JSON)).c.pinned["image"].as_string()
    connection = op.get_bind()
    named = connection.execute(sa.text("SELECT image FROM runtime")).scalars()
    digests = {*named, *connection.execute(sa.select(pinned).distinct()).scalars()} - {None}
    held = sa.table(
        "tenant_image", *(sa.column(name) for name in ("tenant_id", "digest", "counted_bytes"))
    )
    rows = [(SHARED, digest, NOT_MEASURED) for digest in sorted(digests)]
    if rows:
        names = ("tenant_id", "digest", "counted_bytes")
        op.bulk_insert(held, [dict(zip(names, row, strict=True)) for row in rows])
