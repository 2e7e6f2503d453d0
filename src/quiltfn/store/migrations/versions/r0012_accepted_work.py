"""Adds asynchronous invocations (queue, inputs, attempts, dead letters, deliveries), policies of
functions, and schedules. Records get the order in which their two streams were written.
"""

from typing import Any

import sqlalchemy as sa
from alembic import op

revision = "0012"
down_revision = "0011"

ZERO = sa.text("0")


def text(name: str, **options: Any) -> sa.Column[Any]:
    return sa.Column(name, sa.Text, **options)


def number(name: str, **options: Any) -> sa.Column[Any]:
    return sa.Column(name, sa.BigInteger, **options)


def owner() -> tuple[sa.Column[Any], ...]:
    return (
        text("node_id", nullable=False, server_default=sa.text("''")),
        number("epoch", nullable=False, server_default=ZERO),
    )


def upgrade() -> None:
    op.add_column("invocation", text("output_order"))
    index_ended()
    make_queue()
    make_results()
    make_deliveries()
    make_schedules()


def index_ended() -> None:
    """Exclude waiting records, which may be many from now on, from retention's index."""
    has_end = sa.text("status NOT IN ('queued', 'running')")
    op.drop_index("invocation_of_tenant", "invocation")
    op.create_index(
        "invocation_of_tenant",
        "invocation",
        ["tenant_id", "invocation_id", "size_bytes", "status"],
        sqlite_where=has_end,
        postgresql_where=has_end,
    )


def make_queue() -> None:
    op.create_table(
        "work",
        text("invocation_id", primary_key=True),
        text("tenant_id", nullable=False),
        text("function_id", nullable=False),
        number("due_at_ms", nullable=False),
        number("expires_at_ms", nullable=False),
        sa.Column("attempts", sa.Integer, nullable=False, server_default=ZERO),
        sa.Column("is_begun", sa.Boolean, nullable=False, server_default=ZERO),
        text("machine_boot_id", nullable=False, server_default=sa.text("''")),
        *owner(),
    )
    for name, columns, condition in (
        ("work_due", ["function_id", "due_at_ms", "invocation_id"], sa.text("epoch = 0")),
        ("work_claimed", ["function_id", "epoch"], sa.text("epoch > 0")),
    ):
        op.create_index(name, "work", columns, sqlite_where=condition, postgresql_where=condition)
    count_work()
    op.create_table(
        "input",
        text("invocation_id", primary_key=True),
        text("tenant_id", nullable=False),
        text("function_id", nullable=False),
        sa.Column("timeout_seconds", sa.Integer),
        sa.Column("version", sa.Integer),
        text("caller", nullable=False),
        sa.Column("may_write", sa.Boolean, nullable=False),
        text("traceparent"),
        sa.Column("is_encrypted", sa.Boolean, nullable=False, server_default=ZERO),
        number("size_bytes", nullable=False),
        sa.Column("payload", sa.LargeBinary),
        sa.Column("environment", sa.LargeBinary),
    )
    op.create_index("input_of_tenant", "input", ["tenant_id", "invocation_id", "size_bytes"])
    op.create_index("input_of_function", "input", ["function_id"])
    count_inputs()


def count_work() -> None:
    op.create_table(
        "work_count", text("function_id", primary_key=True), number("number", nullable=False)
    )
    op.execute(
        "CREATE TRIGGER work_added AFTER INSERT ON work BEGIN "
        "INSERT INTO work_count VALUES (NEW.function_id, 1) "
        "ON CONFLICT (function_id) DO UPDATE SET number = number + 1; END"
    )
    op.execute(
        "CREATE TRIGGER work_removed AFTER DELETE ON work BEGIN "
        "UPDATE work_count SET number = number - 1 WHERE function_id = OLD.function_id; END"
    )


def count_inputs() -> None:
    """Count inputs like the other kinds of `usage`, but without updates, since inputs never
    change.
    """
    op.execute(
        "CREATE TRIGGER input_added AFTER INSERT ON input BEGIN "
        "INSERT INTO usage VALUES ('input', NEW.tenant_id, NEW.size_bytes, 1) "
        "ON CONFLICT (kind, tenant_id) DO UPDATE SET "
        "bytes = bytes + excluded.bytes, number = number + 1; END"
    )
    op.execute(
        "CREATE TRIGGER input_removed AFTER DELETE ON input BEGIN "
        "UPDATE usage SET bytes = bytes - OLD.size_bytes, number = number - 1 "
        "WHERE kind = 'input' AND tenant_id = OLD.tenant_id; END"
    )


def make_results() -> None:
    op.create_table(
        "attempt",
        text("invocation_id", primary_key=True),
        sa.Column("attempt", sa.Integer, primary_key=True),
        text("status", nullable=False),
        number("started_at"),
        number("ended_at"),
        number("duration_ms"),
        sa.Column("exit_code", sa.Integer),
        text("error_message"),
        text("execution_node_id", nullable=False),
        sa.Column("cold_start", sa.Boolean, nullable=False),
        sa.Column("version", sa.Integer),
    )
    op.create_table(
        "dead_letter",
        text("invocation_id", primary_key=True),
        text("tenant_id", nullable=False),
        text("function_id", nullable=False),
        text("reason", nullable=False),
        number("died_at", nullable=False),
    )
    op.create_index("dead_letter_listing", "dead_letter", ["function_id", "invocation_id"])
    op.create_table(
        "function_policy",
        sa.Column(
            "function_id",
            sa.Text,
            sa.ForeignKey("function.id", ondelete="CASCADE"),
            primary_key=True,
        ),
        sa.Column("async_policy", sa.JSON),
        sa.Column("record_policy", sa.JSON),
    )


def make_deliveries() -> None:
    op.create_table(
        "delivery",
        text("id", primary_key=True),
        text("tenant_id", nullable=False),
        text("function_id", nullable=False),
        text("invocation_id", nullable=False),
        text("policy_field", nullable=False),
        text("status", nullable=False),
        sa.Column("body", sa.LargeBinary, nullable=False),
        sa.Column("attempts", sa.Integer, nullable=False, server_default=ZERO),
        number("due_at_ms", nullable=False),
        number("expires_at_ms", nullable=False),
        sa.Column("http_status", sa.Integer),
        text("error_message"),
        number("ended_at"),
        *owner(),
    )
    waits = sa.text("status = 'waiting' AND epoch = 0")
    op.create_index(
        "delivery_due",
        "delivery",
        ["function_id", "due_at_ms"],
        sqlite_where=waits,
        postgresql_where=waits,
    )
    op.create_index("delivery_listing", "delivery", ["function_id", "id"])
    op.create_index("delivery_ended", "delivery", ["tenant_id", "ended_at"])
    counted = "kind = 'delivery' AND tenant_id = OLD.tenant_id"
    for change, statement in (
        (
            "added AFTER INSERT",
            "INSERT INTO usage VALUES ('delivery', NEW.tenant_id, 500 + length(NEW.body), 1) "
            "ON CONFLICT (kind, tenant_id) DO UPDATE "
            "SET bytes = bytes + excluded.bytes, number = number + 1",
        ),
        (
            "removed AFTER DELETE",
            f"UPDATE usage SET bytes = bytes - 500 - length(OLD.body), number = number - 1 "
            f"WHERE {counted}",
        ),
        (
            "changed AFTER UPDATE OF body",
            f"UPDATE usage SET bytes = bytes - length(OLD.body) + length(NEW.body) WHERE {counted}",
        ),
    ):
        op.execute(f"CREATE TRIGGER delivery_{change} ON delivery BEGIN {statement}; END")


def make_schedules() -> None:
    op.create_table(
        "schedule",
        text("tenant_id", primary_key=True),
        text("name", primary_key=True),
        text("id", nullable=False),
        sa.Column(
            "function_id",
            sa.Text,
            sa.ForeignKey("function.id", ondelete="CASCADE"),
            nullable=False,
        ),
        text("cron"),
        number("every_seconds"),
        text("timezone", nullable=False),
        text("payload"),
        sa.Column("environment", sa.JSON),
        text("overlap", nullable=False),
        text("missed", nullable=False),
        number("jitter_seconds", nullable=False),
        sa.Column("enabled", sa.Boolean, nullable=False),
        number("created_at", nullable=False),
        number("updated_at", nullable=False),
        number("revision", nullable=False),
        number("anchor_ms", nullable=False),
        number("next_tick_ms"),
        number("next_due_ms"),
        number("looked_at_ms", nullable=False),
        number("missed_count", nullable=False, server_default=ZERO),
        number("skipped_count", nullable=False, server_default=ZERO),
        number("fired_count", nullable=False, server_default=ZERO),
        sa.UniqueConstraint("id", name="schedule_id"),
    )
    op.create_index("schedule_due", "schedule", ["next_due_ms"])
    op.create_index("schedule_function", "schedule", ["function_id"])
    op.create_table(
        "schedule_run",
        text("schedule_id", primary_key=True),
        number("tick_ms", primary_key=True),
        text("function_id", nullable=False),
        text("outcome", nullable=False),
        text("invocation_id"),
        text("reason"),
        number("missed", nullable=False),
        sa.Column("is_manual", sa.Boolean, primary_key=True),
        number("decided_at", nullable=False),
    )
    waits = sa.text("outcome = 'waiting'")
    op.create_index(
        "schedule_run_waiting",
        "schedule_run",
        ["schedule_id", "tick_ms"],
        sqlite_where=waits,
        postgresql_where=waits,
    )
    op.create_index("schedule_run_of_function", "schedule_run", ["function_id"])
