"""True ends of invocations that are found late, in the spool of a node that was taken over.

The take-over recorded the node's invocations as `interrupted`, since their ends were unknown. If
the spool has the true end of such an invocation, it replaces the assumed one: the record is set
back to running, and the end is then stored like any other. An invocation that was retried or
redriven stays as it is. No other ends are replaced.
"""

from collections.abc import Mapping

from msgspec.structs import replace
from sqlalchemy import Connection, delete, select, update

from quiltfn.model.end_cause import NODE_LOST
from quiltfn.model.invocation import Invocation, Source, Status
from quiltfn.store.calls import records, stats
from quiltfn.store.database import tables
from quiltfn.store.database.sql import run

invocation, dead_letter, delivery = tables.invocation, tables.dead_letter, tables.delivery
# The sources of synchronous invocations, which have no retries, dead letters or deliveries.
WITHOUT_WORK = (Source.SYNC, Source.URL)


def reopen(connection: Connection, left: Mapping[str, Invocation]) -> list[Invocation]:
    """Sets records back to running if a take-over has ended them and their true end is in `left`.

    `left`: the records in the spool, by id. Returns the records to store in the same transaction. A
    record that ends its invocation names the delivery that its own delivery replaces.
    """
    to_store = dict(left)
    ends = [one for one in left.values() if one.is_final]
    for start in range(0, len(ends), records.STATEMENT_ROWS):
        some = {one.invocation_id: one for one in ends[start : start + records.STATEMENT_ROWS]}
        for known in _made_up(connection, some):
            completed = some[known.invocation_id]
            replaced = _undo(connection, known)
            if completed.outcome is not None:
                outcome = replace(completed.outcome, replaces_id=replaced)
                to_store[known.invocation_id] = replace(completed, outcome=outcome)
    return list(to_store.values())


def _made_up(connection: Connection, ends: Mapping[str, Invocation]) -> list[Invocation]:
    """The stored records of `ends` that a take-over has ended and that were neither retried nor
    redriven.
    """
    found = [
        known
        for known in records.among(connection, ends).values()
        if known.status is Status.INTERRUPTED
        # Records of earlier releases have no cause.
        and (known.end_cause or known.error_message) in (NODE_LOST, NODE_LOST.sentence)
        and known.attempt == ends[known.invocation_id].attempt
    ]
    ids = [one.invocation_id for one in found if one.source not in WITHOUT_WORK]
    column = dead_letter.c.invocation_id
    kept = set(connection.execute(select(column).where(column.in_(ids))).scalars())
    return [one for one in found if one.source in WITHOUT_WORK or one.invocation_id in kept]


def _undo(connection: Connection, known: Invocation) -> str | None:
    """Sets a record back to running and removes the consequences of its assumed end. Returns the id
    of a delivery of that end that the receiver may already have, if there is one.
    """
    this = known.invocation_id
    again = {
        "status": Status.RUNNING.value,
        "ended_at": None,
        "error_message": None,
        "end_cause": None,
    }
    connection.execute(
        update(invocation).where(invocation.c.invocation_id == this).values(again)
    ).close()
    counted = {"function_id": known.function_id, "calls": -1, "errors": -1, "last": 0}
    run(connection, "add_to_counters", counted)
    stats.remove_interrupted(connection, known)
    attempt = tables.attempt.c
    ended = attempt.invocation_id == this, attempt.attempt == known.attempt
    connection.execute(delete(tables.attempt).where(*ended)).close()
    connection.execute(delete(dead_letter).where(dead_letter.c.invocation_id == this)).close()
    # Deliveries of the assumed end that were sent, or are being sent, stay.
    unsent = delivery.c.status == "waiting", delivery.c.epoch == 0
    of_call = delivery.c.function_id == known.function_id, delivery.c.invocation_id == this
    tried = select(delivery.c.id).where(*of_call, delivery.c.attempts > 0)
    replaced: str | None = connection.execute(tried.order_by(delivery.c.id.desc())).scalar()
    connection.execute(delete(delivery).where(*of_call, *unsent)).close()
    return replaced
