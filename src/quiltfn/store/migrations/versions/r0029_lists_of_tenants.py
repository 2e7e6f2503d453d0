"""Adds indices for lists of a tenant's dead letters and deliveries, newest first."""

from alembic import op

revision = "0029"
down_revision = "0028"


def upgrade() -> None:
    op.create_index("dead_letter_of_tenant", "dead_letter", ["tenant_id", "invocation_id"])
    op.create_index("delivery_of_tenant", "delivery", ["tenant_id", "id"])
