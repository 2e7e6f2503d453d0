"""Adds the tenants that have ever had a URL, so that no other tenant gets their paths."""

import sqlalchemy as sa
from alembic import op

revision = "0024"
down_revision = "0023"


def upgrade() -> None:
    # PostgreSQL compares every text by its bytes; see postgresql_0013.sql.
    kind = sa.Text().with_variant(sa.Text(collation="C"), "postgresql")
    op.create_table("url_tenant", sa.Column("tenant_id", kind, primary_key=True))
    op.execute(
        "INSERT INTO url_tenant (tenant_id) SELECT DISTINCT tenant_id FROM function"
        " WHERE id IN (SELECT function_id FROM function_url)"
    )
