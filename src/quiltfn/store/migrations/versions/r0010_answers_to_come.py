"""An answer that is still to come counts what its headers will take, and how many records there are
is in `usage` alone.
"""

from alembic import op

from quiltfn.store.usage import ANSWER, triggers

revision = "0010"
down_revision = "0009"


def upgrade() -> None:
    for change in ("added", "removed", "changed"):
        op.execute(f"DROP TRIGGER {ANSWER.table}_{change}")
    for trigger in triggers(ANSWER):
        op.execute(trigger)
    size = ANSWER.size.replace("ROW.", "")
    op.execute(f"DELETE FROM usage WHERE kind = '{ANSWER.name}'")
    op.execute(
        f"INSERT INTO usage SELECT '{ANSWER.name}', tenant_id, sum({size}), count(*) "
        f"FROM {ANSWER.table} GROUP BY tenant_id"
    )
    op.drop_table("record_count")
