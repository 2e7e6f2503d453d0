"""Stores a program's last output separately from a function's error message."""

import sqlalchemy as sa
from alembic import op

revision = "0032"
down_revision = "0031"
BETWEEN = "\nIt wrote last:\n"


def upgrade() -> None:
    # PostgreSQL compares every text by its bytes; see postgresql_0013.sql.
    text = sa.Text().with_variant(sa.Text(collation="C"), "postgresql")
    op.add_column("function", sa.Column("error_output", text, nullable=True))
    function = sa.table("function", *map(sa.column, ("id", "error_message", "error_output")))
    error = function.c.error_message
    found = sa.select(function.c.id, error).where(error.contains(BETWEEN))
    for id_, whole in op.get_bind().execute(found).all():
        sentence, _, written = whole.partition(BETWEEN)
        values = {"error_message": sentence, "error_output": written}
        op.execute(sa.update(function).where(function.c.id == id_).values(values))
