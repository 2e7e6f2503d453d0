"""Counts the future headers of pending idempotent responses, and keeps the number of records only
in `usage`.
"""

from alembic import op

revision = "0010"
down_revision = "0009"

SIZE = "500 + length(ROW.path) + length(ROW.key) + max(200, length(ROW.headers)) + length(ROW.body)"
TRIGGERS = (
    "CREATE TRIGGER idempotent_answer_added AFTER INSERT ON idempotent_answer BEGIN "
    "INSERT INTO usage VALUES ('answer', NEW.tenant_id, :new, 1) "
    "ON CONFLICT (kind, tenant_id) DO UPDATE SET "
    "bytes = bytes + excluded.bytes, number = number + 1; END",
    "CREATE TRIGGER idempotent_answer_removed AFTER DELETE ON idempotent_answer BEGIN "
    "UPDATE usage SET bytes = bytes - (:old), number = number - 1 "
    "WHERE kind = 'answer' AND tenant_id = OLD.tenant_id; END",
    "CREATE TRIGGER idempotent_answer_changed AFTER UPDATE OF headers, body ON idempotent_answer "
    "BEGIN UPDATE usage SET bytes = bytes + (:new) - (:old) "
    "WHERE kind = 'answer' AND tenant_id = OLD.tenant_id; END",
)


def upgrade() -> None:
    for change in ("added", "removed", "changed"):
        op.execute(f"DROP TRIGGER idempotent_answer_{change}")
    for trigger in TRIGGERS:
        new, old = SIZE.replace("ROW", "NEW"), SIZE.replace("ROW", "OLD")
        op.execute(trigger.replace(":new", new).replace(":old", old))
    size = SIZE.replace("ROW.", "")
    op.execute("DELETE FROM usage WHERE kind = 'answer'")
    op.execute(
        f"INSERT INTO usage SELECT 'answer', tenant_id, sum({size}), count(*) "
        f"FROM idempotent_answer GROUP BY tenant_id"
    )
    op.drop_table("record_count")
