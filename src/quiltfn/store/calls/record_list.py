"""Finds the records of a list, newest first, within a time limit.

Filters read only an index, since rows may be megabytes apart. If few records pass, a million
entries may have to be examined. So a page ends early at its time limit, and its cursor continues
after the last examined entry.
"""

import time
from collections.abc import Collection, Sequence
from typing import Any

import msgspec
from sqlalchemy import Connection, select

from quiltfn.model.cursors import AFTER_EVERY_ID, BEFORE_EVERY_ID, first_id
from quiltfn.model.invocation import Invocation, Status
from quiltfn.ports import InvocationQuery
from quiltfn.store.calls import records
from quiltfn.store.database import steps, tables
from quiltfn.store.database.sql import run

# Limits of rows and time for one read, since rows with long output are slow.
ROWS_AT_ONCE, ROWS_S = 100, 0.1


class Part(msgspec.Struct, frozen=True):
    """An index for a list of records. `find`, `step`: the names of its statements."""

    find: str
    step: str


OF_FUNCTION = Part("records_of_function", "step_of_function")
ENDED = Part("ended_records", "step_of_ended")
OPEN = Part("open_records", "step_of_open")


def page(
    connection: Connection,
    query: InvocationQuery,
    before: str,
    most: int,
    known: Collection[str] = (),
) -> tuple[list[Invocation], str]:
    """Up to `most` records with ids below `before`, newest first, and the lowest id that the search
    reached; BEFORE_EVERY_ID if there are no more. `known`: ids of records to leave out.
    """
    ids, reached = _matching(connection, query, before, most + len(known))
    ids = [one for one in ids if one not in known]
    if len(ids) > most:
        ids = ids[:most]
        reached = ids[-1]
    return _read(connection, query, ids, reached)


def matches(record: Invocation, query: InvocationQuery, before: str) -> bool:
    """The conditions of `page`, for a record that is not in the database yet."""
    longest = record.duration_ms
    return (
        query.function_id in (None, record.function_id)
        and query.tenant_id in (None, record.tenant_id)
        and start_of(query) <= record.invocation_id < min(before, end_of(query))
        and query.status in (None, record.status)
        and query.cold_start in (None, record.cold_start)
        and query.source in (None, record.source)
        and query.version in (None, record.version)
        and (
            query.min_duration_ms is None
            or (longest is not None and longest >= query.min_duration_ms)
        )
    )


def start_of(query: InvocationQuery) -> str:
    """A lower bound of the ids of the list."""
    return BEFORE_EVERY_ID if query.since is None else first_id(query.since)


def end_of(query: InvocationQuery) -> str:
    """An upper bound of the ids of the list."""
    return AFTER_EVERY_ID if query.until is None else first_id(query.until)


def children(connection: Connection, tenant_id: str, parent_id: str, most: int) -> list[Invocation]:
    """The newest invocations that an invocation of the tenant has caused, without their output."""
    wanted = {"parent": parent_id, "tenant_id": tenant_id, "most": most}
    ids = run(connection, "children_of", wanted).scalars().all()
    return list(records.among(connection, ids).values())


def function_of(connection: Connection, tenant_id: str, invocation_id: str) -> str | None:
    """The function id of an invocation of the tenant."""
    wanted = {"invocation_id": invocation_id, "tenant_id": tenant_id}
    return run(connection, "function_of_invocation", wanted).scalar()


def _matching(
    connection: Connection, query: InvocationQuery, before: str, most: int
) -> tuple[list[str], str]:
    """The ids of up to `most` matching records, and the lowest id that the search reached."""
    until, found, reached = time.monotonic() + steps.STEPS_S, list[str](), BEFORE_EVERY_ID
    for part in _parts(query):
        some, end = _matching_in(connection, part, query, before, most, until)
        found += some
        reached = max(reached, end)
    return sorted((one for one in found if one >= reached), reverse=True), reached


def _parts(query: InvocationQuery) -> Sequence[Part]:
    if query.function_id is not None:
        return (OF_FUNCTION,)
    if query.status is None:
        return (OPEN, ENDED)
    return (OPEN,) if query.status in (Status.QUEUED, Status.RUNNING) else (ENDED,)


def _matching_in(
    connection: Connection,
    part: Part,
    query: InvocationQuery,
    before: str,
    most: int,
    until: float,
) -> tuple[list[str], str]:
    start, at = start_of(query), min(before, end_of(query))
    filters: dict[str, Any] = {
        "status": None if query.status is None else query.status.value,
        "cold_start": query.cold_start,
        "min_duration_ms": query.min_duration_ms,
        "source": None if query.source is None else query.source.value,
        "version": query.version,
    }
    wanted = {"owner": query.function_id or query.tenant_id, "most": most, **filters}
    is_filtered = any(one is not None for one in filters.values())
    found: list[str] = []
    while True:
        end = start
        if is_filtered:
            step = {"owner": wanted["owner"], "before": at, "start": start}
            step["entries"] = steps.STEP_ENTRIES
            end = run(connection, part.step, step).scalar() or start
        some = wanted | {"before": at, "start": end, "most": most - len(found)}
        found += run(connection, part.find, some).scalars()
        if len(found) == most:
            return found, found[-1]
        if end == start:
            return found, BEFORE_EVERY_ID
        if time.monotonic() > until:
            return found, end
        at = end


def _read(
    connection: Connection, query: InvocationQuery, ids: Sequence[str], reached: str
) -> tuple[list[Invocation], str]:
    """The records with these ids, as many as fit into the bytes and the time of a page."""
    left_out = () if query.with_output else tables.OUTPUT_COLUMNS
    columns = [one for one in tables.invocation.c if one.name not in left_out]
    key = tables.invocation.c.invocation_id
    until, left, found = time.monotonic() + ROWS_S, query.max_bytes, list[Invocation]()
    for start in range(0, len(ids), ROWS_AT_ONCE):
        some = select(*columns).where(key.in_(ids[start : start + ROWS_AT_ONCE]))
        with connection.execute(some.order_by(key.desc())) as rows:
            for row in rows.mappings():
                found.append(tables.read_invocation(row))
                left -= len(found[-1].stdout) + len(found[-1].stderr)
                if left <= 0 or time.monotonic() > until:
                    return found, found[-1].invocation_id
    return found, reached
