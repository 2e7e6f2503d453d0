"""Removes the remaining rows of deleted functions, in steps, so that others can write between."""

import time
from collections.abc import Sequence

from sqlalchemy import (
    Column,
    ColumnElement,
    Connection,
    Delete,
    TextClause,
    delete,
    select,
    text,
    tuple_,
)

from quiltfn.model.cursors import minute_before
from quiltfn.store.calls import records
from quiltfn.store.calls.outcomes import many
from quiltfn.store.database import tables
from quiltfn.store.database.sql import run


def remove_some(connection: Connection) -> bool:
    """Removes some rows of one deleted function; returns whether there may be more."""
    deletion = tables.deletion.c.function_id
    function_id = connection.execute(select(deletion).limit(1)).scalar()
    if function_id is None:
        return False
    until = records.end_of_step(connection)
    for batch in batches(function_id, records.at_a_time(connection)):
        while connection.execute(batch).rowcount:
            if time.perf_counter() >= until:
                return True
    step = {"function_id": function_id, "most": records.STEP_ROWS}
    some = run(connection, "some_of_function", step).scalars().all()
    remember_young(connection, some)
    if records.remove(connection, some) == len(some) < records.STEP_ROWS:
        connection.execute(delete(tables.deletion).where(deletion == function_id))
    return True


def remember_young(connection: Connection, ids: Sequence[str]) -> None:
    """Notes the removed records of the last minute. After a power cut an old state of the journal
    may contain them again (`store/calls/retention.py`). Only this note then shows that they were
    counted.
    """
    if ids:
        newest = run(connection, "newest_record").scalar_one()
        young = minute_before(newest)
        many(connection, "note_counted_of", [(one,) for one in ids if one > young])


def batches(function_id: str, at_a_time: int) -> list[Delete]:
    """Statements that each delete `at_a_time` rows of the function from a table other than
    `invocation`.
    """
    work, given, dead = tables.work.c, tables.input_table.c, tables.dead_letter.c
    delivery, run = tables.delivery.c, tables.schedule_run.c
    key = tuple_(run.schedule_id, run.tick_ms, run.is_manual)
    runs = (
        select(run.schedule_id, run.tick_ms, run.is_manual)
        .where(run.function_id == function_id)
        .limit(at_a_time)
    )
    return [
        # Two statements, so that each can use a partial index, whose condition must not be a
        # placeholder.
        some(at_a_time, work.invocation_id, work.function_id == function_id, text("epoch = 0")),
        some(at_a_time, work.invocation_id, work.function_id == function_id, text("epoch > 0")),
        some(at_a_time, dead.invocation_id, dead.function_id == function_id),
        some(at_a_time, given.invocation_id, given.function_id == function_id),
        some(at_a_time, delivery.id, delivery.function_id == function_id),
        delete(tables.schedule_run).where(key.in_(runs)),
        delete(tables.work_count).where(tables.work_count.c.function_id == function_id),
    ]


def some(at_a_time: int, key: Column[str], *conditions: ColumnElement[bool] | TextClause) -> Delete:
    return delete(key.table).where(key.in_(select(key).where(*conditions).limit(at_a_time)))
