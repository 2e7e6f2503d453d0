"""Stores and finds records of invocations, counts each once, and ends those that a crash left
running.
"""

import time
from collections import defaultdict
from collections.abc import Iterable, Sequence
from functools import lru_cache
from typing import Any

import msgspec
from sqlalchemy import Connection, Select, bindparam, exists, select

from quiltfn.model.end_cause import Interrupted, cause_json
from quiltfn.model.invocation import FINAL, Invocation, Status
from quiltfn.ports import FunctionCounters, Outline
from quiltfn.store.calls import outcomes, stats
from quiltfn.store.database import tables
from quiltfn.store.database.nodes import Boot
from quiltfn.store.database.sql import driver, execute, numbered_cursor, run, statements
from quiltfn.store.tenants.usage import RECORD_BYTES

STATEMENT_ROWS = 1000
# Removing a row can take long if it is large or not in memory. So a time limit ends each step; the
# clock is read after every few rows.
STEP_ROWS, STEP_S, AT_A_TIME = 500, 0.001, 10
# For PostgreSQL a step is longer: a commit over the network takes a millisecond or more.
FAR_STEPS, FAR_ROWS = 5, 25
# A step examines at least this many tenants even after its time limit, so that tenants with nothing
# to remove can't use up the whole time.
LEAST_TENANTS = 16
# Rows per statement, largest first. Python switches threads around each statement, and the event
# loop waits for that: one statement per row cost 50 µs an invocation. With powers of two, a batch
# needs few statements, and few prepared statements are kept.
ROWS_AT_ONCE = (16, 8, 4, 2, 1)
FAR_ROWS_AT_ONCE = (128, 64, 32, *ROWS_AT_ONCE)
# The kernel may let an invocation wait on the core of the thread that writes, although another core
# is idle. So this thread sleeps after each statement of a batch. A server of PostgreSQL does the
# work elsewhere.
PAUSE_S = 0.00002
SERVER_ENDED = Interrupted("server_ended")


LARGE_BYTES = 32 * 1024


@lru_cache(1024)
def upsert_rows(count: int, epoch: int) -> str:
    """SQLite's statement for `count` records of a boot."""
    row = f"({', '.join('?' * len(tables.INVOCATION_COLUMNS))})"
    return _upsert(epoch, [row] * count)


@lru_cache(64)
def numbered_rows(count: int, epoch: int) -> str:
    """PostgreSQL's statement, with the types of its values. Its placeholders, which may be
    thousands, are numbered, so that psycopg need not search for them.
    """
    types = tables.postgresql_types(tables.INVOCATION_COLUMNS)
    rows = []
    for first in range(1, count * len(types), len(types)):
        values = (f"CAST(${number} AS {kind})" for number, kind in enumerate(types, first))
        rows.append(f"({', '.join(values)})")
    return _upsert(epoch, rows)


def _upsert(epoch: int, rows: list[str]) -> str:
    # This part has no placeholder, so SQLite's form also works for PostgreSQL.
    source = statements("sqlite")["source_of_invocations"]
    source = source.replace("$record_bytes", str(RECORD_BYTES)).replace("$epoch", str(epoch))
    return _upsert_from(source.replace("$rows", ", ".join(rows)))


def _upsert_from(source: str) -> str:
    return statements("sqlite")["upsert_invocations"].replace("$source", source)


@lru_cache(1024)
def upsert_large(epoch: int) -> str:
    """The statement for one record of an existing function, with its size as the last value.

    If a table has triggers, SQLite first copies the rows of a SELECT. That is too slow for a record
    of several megabytes.
    """
    places = ", ".join("?" * len(tables.INVOCATION_COLUMNS))
    return _upsert_from(f"VALUES ({places}, {epoch}, ?)")


class NotAllNew(Exception):
    """`upsert_new` cannot store some of the records, for one of the reasons that it names."""


def upsert_new(connection: Connection, records: Sequence[Invocation], epoch: int) -> stats.Sums:
    """`upsert` for records that are not final in the database yet; takes a third less time.

    Raises `NotAllNew` if a stored record is final or its function is deleted, or for a completed
    attempt that will be retried, since its row doesn't show its end; the caller must then roll
    back.
    """
    ended = [record for record in records if record.status in FINAL]
    final = [record for record in ended if record.is_final]
    if len(ended) != len(final) or write(connection, records, epoch) != len(records):
        raise NotAllNew
    add_counters(connection, final)
    outcomes.carry_out(connection, [record for record in final if record.outcome is not None])
    return stats.add_ended(connection, final)


def upsert(connection: Connection, records: Sequence[Invocation], epoch: int) -> stats.Sums:
    """Stores records of a boot, adds newly final ones to their functions' counters and ended ones
    to the statistics, and applies the outcomes of completed attempts of asynchronous invocations.
    Returns the statistics that it added.

    Harmless when repeated: final records, and those of completed attempts, are neither changed nor
    counted again. A commit may be repeated, a segment read again, or an old segment come back after
    a power cut.
    """
    sums: stats.Sums = {}
    for start in range(0, len(records), STATEMENT_ROWS):
        some = records[start : start + STATEMENT_ROWS]
        ended = {record.invocation_id: record for record in some if record.status in FINAL}
        if ended:
            ids = tables.as_json(list(ended))
            for known, status, attempt in run(connection, "over_among", {"ids": ids}):
                if status in FINAL or attempt > ended[known].attempt:
                    del ended[known]
        there = functions_among(connection, ended.values())
        kept = [record for record in ended.values() if record.function_id in there]
        # before the records, whose sizes include the output of their attempts
        outcomes.carry_out(connection, [record for record in kept if record.outcome is not None])
        write(connection, some, epoch)
        add_counters(connection, [record for record in kept if record.is_final])
        gone = [record for record in ended.values() if record.function_id not in there]
        kept += stats.not_counted(connection, gone)
        stats.add_all(sums, stats.add_ended(connection, kept))
    return sums


def functions_among(connection: Connection, records: Iterable[Invocation]) -> set[str]:
    """The functions of the records that exist and are not deleted."""
    ids = {record.function_id for record in records}
    return {one for one in ids if run(connection, "has_function", (one,)).first()}


def write(connection: Connection, records: Sequence[Invocation], epoch: int) -> int:
    """Writes the records that are not final in the database yet; returns how many it wrote."""
    # Values by position, and no SQLAlchemy, because this runs for every invocation.
    written, at = 0, 0
    small = []
    for ended in records:
        record = ended if ended.outcome is None else ended.after_attempt()
        size = len(record.stdout) + len(record.stderr)
        if size <= LARGE_BYTES:
            small.append(record)
        elif run(connection, "has_function", (record.function_id,)).first():
            written += _write_large(connection, record, size, epoch)
    is_near = connection.dialect.name == "sqlite"
    for count_at_once in ROWS_AT_ONCE if is_near else FAR_ROWS_AT_ONCE:
        while len(small) - at >= count_at_once:
            written += _write_rows(connection, small[at : at + count_at_once], epoch)
            at += count_at_once
            if is_near and len(small) > ROWS_AT_ONCE[0]:
                time.sleep(PAUSE_S)
    return written


def _write_rows(connection: Connection, records: Sequence[Invocation], epoch: int) -> int:
    values: list[Any] = []
    for record in records:
        values += tables.invocation_row(record)
    if connection.dialect.name == "sqlite":
        written = driver(connection).execute(upsert_rows(len(records), epoch), values)
    else:
        written = numbered_cursor(connection).execute(numbered_rows(len(records), epoch), values)
    return int(written.rowcount)


def _write_large(connection: Connection, record: Invocation, size: int, epoch: int) -> int:
    if connection.dialect.name != "sqlite":
        return _write_rows(connection, [record], epoch)
    values = [*tables.invocation_row(record), RECORD_BYTES + size]
    return int(driver(connection).execute(upsert_large(epoch), values).rowcount)


def end_of_step(connection: Connection) -> float:
    """The time, by the performance counter, at which a step of removal that begins now must end."""
    share = 1 if connection.dialect.name == "sqlite" else FAR_STEPS
    return time.perf_counter() + STEP_S * share


def at_a_time(connection: Connection) -> int:
    """How many rows a step removes before it reads the clock again."""
    return AT_A_TIME if connection.dialect.name == "sqlite" else AT_A_TIME * FAR_ROWS


def remove(connection: Connection, ids: Sequence[str]) -> int:
    """Removes records with their inputs, attempts and dead letters until the step's time is over;
    returns the number of records removed.
    """
    until, removed = end_of_step(connection), 0
    some = at_a_time(connection)
    for at in range(0, len(ids), some):
        named = {"ids": tables.as_json(ids[at : at + some])}
        for of_call in ("remove_attempts", "remove_dead_letters", "remove_inputs"):
            run(connection, of_call, named)
        removed += run(connection, "remove_invocations", named).rowcount
        if time.perf_counter() >= until:
            break
    return removed


def drop_output(connection: Connection, ids: Sequence[str]) -> int:
    """Removes the output of records until the step's time is over; returns the number of
    records.
    """
    until, dropped = end_of_step(connection), 0
    for invocation_id in ids:
        row = {"invocation_id": invocation_id, "record_bytes": RECORD_BYTES}
        dropped += run(connection, "drop_output", row).rowcount
        run(connection, "drop_attempt_output", {"invocation_id": invocation_id}).close()
        if time.perf_counter() >= until:
            break
    return dropped


def add_counters(connection: Connection, ended: Iterable[Invocation]) -> None:
    """Adds invocations to their functions' counters."""
    sums = defaultdict[str, FunctionCounters](FunctionCounters)
    for record in ended:
        sums[record.function_id].count(record)
    if sums:
        run(
            connection,
            "add_to_counters",
            [
                {
                    "function_id": function_id,
                    "calls": counters.invocation_count,
                    "errors": counters.error_count,
                    "last": counters.last_invoked_at or 0,
                }
                for function_id, counters in sums.items()
            ],
        )


def interrupt(connection: Connection, boot: Boot, now: int, why: Interrupted = SERVER_ENDED) -> int:
    """Ends and counts every running invocation that an earlier start of this server left; returns
    how many.
    """
    ours = {"now": now, "node": boot.node_id, "epoch": boot.epoch, "alone": boot.is_alone}
    sums = run(connection, "counters_of_left", ours).mappings().all()
    if sums:
        run(connection, "add_to_counters", [dict(row) for row in sums])
        stats.add_interrupted(connection, sums, now)
        values = {"why": why.sentence, "cause": cause_json(why)}
        run(connection, "interrupt_left", ours | values)
    return sum(row["calls"] for row in sums)


def interrupted(record: Invocation, now: int) -> Invocation:
    """The record as `interrupt` will store it."""
    if record.status is not Status.RUNNING:
        return record
    return msgspec.structs.replace(
        record,
        status=Status.INTERRUPTED,
        ended_at=max(now, record.started_at or 0),
        error_message=SERVER_ENDED.sentence,
        end_cause=SERVER_ENDED,
    )


_AMONG = select(
    *(one for one in tables.invocation.c if one.name not in tables.OUTPUT_COLUMNS)
).where(tables.invocation.c.invocation_id.in_(bindparam("ids", expanding=True)))


def among(connection: Connection, ids: Iterable[str]) -> dict[str, Invocation]:
    """The records with these ids, without their output."""
    rows = connection.execute(_AMONG, {"ids": list(ids)}).mappings()
    return {row["invocation_id"]: tables.read_invocation(row) for row in rows}


def find(connection: Connection, function_id: str, invocation_id: str) -> Invocation | None:
    """One record; None if its function was deleted."""
    query = of_function(function_id).where(tables.invocation.c.invocation_id == invocation_id)
    row = connection.execute(query).mappings().one_or_none()
    return tables.read_invocation(row) if row else None


def outline(connection: Connection, function_id: str, invocation_id: str) -> Outline | None:
    """One record without its output; None if its function was deleted."""
    query = of_function(function_id, with_output=False)
    query = query.where(tables.invocation.c.invocation_id == invocation_id)
    row = connection.execute(query).mappings().one_or_none()
    if row is None:
        return None
    sizes = output_sizes(connection, (invocation_id, function_id))
    return Outline(record=tables.read_invocation(row), sizes=sizes)


def output_sizes(connection: Connection, call: tuple[str, str]) -> dict[str, int]:
    """The size of each stream in bytes, without reading it. `call`: the ids of invocation and
    function.
    """
    if connection.dialect.name != "sqlite":
        found = run(connection, "output_sizes", call).one()
        return dict(zip(tables.OUTPUT_COLUMNS, found, strict=True))
    sizes = {}
    for stream in tables.OUTPUT_COLUMNS:
        with opened_output(connection, call, stream) as blob:
            sizes[stream] = len(blob)
    return sizes


def read_output(
    connection: Connection, call: tuple[str, str], stream: str, start: int, size: int
) -> bytes:
    """A part of one stream; empty if the record no longer exists. `call`: as in `output_sizes`."""
    if connection.dialect.name != "sqlite":
        # PostgreSQL reads only this part: it stores long values in a separate table.
        part = run(connection, f"part_of_{stream}", (start + 1, size, *call)).scalar()
        return bytes(part or b"")
    try:
        with opened_output(connection, call, stream) as blob:
            blob.seek(min(start, len(blob)))
            return bytes(blob.read(size))
    except LookupError:
        return b""


def opened_output(connection: Connection, call: tuple[str, str], stream: str) -> Any:
    """Opens one stream of a record as an SQLite blob, which loads only the parts that are read.
    Raises `LookupError`.
    """
    found = execute(connection, "rowid_of_invocation", call).fetchone()
    if found is None:
        raise LookupError(call)
    return driver(connection).blobopen("invocation", stream, found[0], readonly=True)


def of_function(function_id: str, *, with_output: bool = True) -> Select[tuple[object, ...]]:
    here = exists().where(tables.function.c.id == function_id)
    left_out = () if with_output else tables.OUTPUT_COLUMNS
    columns = [one for one in tables.invocation.c if one.name not in left_out]
    return select(*columns).where(tables.invocation.c.function_id == function_id, here)
