"""Which fleet the database belongs to, if it belongs to one."""

import sqlalchemy as sa
from alembic import op

revision = "0014"
down_revision = "0013"


# As all other text there, compared by its bytes.
TEXT = sa.Text().with_variant(sa.Text(collation="C"), "postgresql")


def upgrade() -> None:
    op.create_table("fleet", sa.Column("id", TEXT, primary_key=True))
