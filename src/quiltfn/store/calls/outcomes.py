"""Applies the outcome of an attempt of an asynchronous invocation, in the transaction that stores
the record.

    claimed ──outcome──▶ waits again (a retry), or is over: its row in `work` is removed

Rows are added for the attempt and, depending on the outcome, for a dead letter or a delivery.
Harmless when repeated. `records.py` finds out whether a record is stored for the first time.
"""

from collections.abc import Sequence
from typing import Any

from sqlalchemy import Connection

from quiltfn.model.delivery import delivery_of
from quiltfn.model.end_cause import cause_json
from quiltfn.model.invocation import Invocation
from quiltfn.ports.work import ATTEMPT_OUTPUT_BYTES
from quiltfn.store.database import tables
from quiltfn.store.database.sql import driver, run, sql

# The maximum for one function; the oldest ones beyond it are removed.
DEAD_LETTERS_KEPT = 10_000


def carry_out(
    connection: Connection, ended: Sequence[Invocation], *, is_attempt: bool = True
) -> None:
    """Applies the `outcome` of each record. `is_attempt`: False for work that was never started."""
    if not ended:
        return
    over = [record for record in ended if record.is_final]
    if is_attempt:
        many(connection, "add_attempt", [attempt_row(record) for record in ended])
    many(connection, "retry_work", [retry_row(record) for record in ended if not record.is_final])
    many(connection, "remove_work", [(record.invocation_id,) for record in over])
    dead = [record for record in over if record.outcome and record.outcome.dead_letter]
    many(connection, "add_dead_letter", [dead_letter_row(record) for record in dead])
    for function_id in {record.function_id for record in dead}:
        limits = {"function_id": function_id, "kept": DEAD_LETTERS_KEPT}
        run(connection, "drop_old_dead_letters", limits)
    sent = [record for record in over if record.outcome and record.outcome.destination_id]
    many(connection, "add_delivery", [delivery_row(record) for record in sent])
    forget_inputs(connection, [record.invocation_id for record in over])


def forget_inputs(connection: Connection, ids: Sequence[str]) -> None:
    """Removes the inputs of ended invocations if their function does not keep them."""
    if ids:
        run(connection, "forget_inputs", {"ids": tables.as_json(ids)})


def many(connection: Connection, statement: str, rows: Sequence[tuple[Any, ...]]) -> None:
    """Runs a statement for each row, with values by position. Bypasses SQLAlchemy to save time."""
    if rows:
        driver(connection).cursor().executemany(sql(connection, statement), rows)


def attempt_row(record: Invocation) -> tuple[Any, ...]:
    out, err = record.stdout[-ATTEMPT_OUTPUT_BYTES:], record.stderr[-ATTEMPT_OUTPUT_BYTES:]
    return (
        *(record.invocation_id, record.attempt, record.status.value),
        *(record.started_ms, in_ms(record.ended_at), record.duration_ms, record.exit_code),
        *(record.error_message, record.execution_node_id, record.cold_start, record.version),
        *((None, None) if record.is_final else (out, err)),
        cause_json(record.end_cause),
    )


def retry_row(record: Invocation) -> tuple[Any, ...]:
    assert record.outcome is not None
    return record.outcome.retry_at_ms, record.invocation_id, record.attempt


def dead_letter_row(record: Invocation) -> tuple[Any, ...]:
    assert record.outcome is not None
    whose = record.invocation_id, record.tenant_id, record.function_id
    return *whose, record.outcome.dead_letter, record.ended_at or 0


def delivery_row(record: Invocation) -> tuple[Any, ...]:
    delivery = delivery_of(record)
    return (
        *(
            delivery.id,
            delivery.tenant_id,
            delivery.function_id,
            delivery.invocation_id,
            delivery.policy_field,
        ),
        *(delivery.status.value, delivery.body, delivery.due_at_ms, delivery.expires_at_ms),
        *(delivery.error_message, delivery.ended_at),
    )


def in_ms(seconds: int | None) -> int | None:
    return None if seconds is None else seconds * 1000
