"""Ends and frees everything that an unreachable node had, in one transaction.

The same code runs when a node starts, for unfinished rows of its earlier boots. But in a take-over
the spool of the node cannot be read, so work that it had claimed counts as started.
"""

from sqlalchemy import Connection, func, select, update

from quiltfn.model.end_cause import NODE_LOST
from quiltfn.model.member import Member, Presence, TakenOver
from quiltfn.model.operation import interrupted
from quiltfn.store.calls import deliveries, records, work_recovery
from quiltfn.store.calls.work_recovery import StartTime
from quiltfn.store.database import tables
from quiltfn.store.database.nodes import Boot
from quiltfn.store.fleet import slots
from quiltfn.store.tenants import idempotency, operations

node = tables.node.c


def take_over(
    connection: Connection, seen: Member, now: StartTime, lost_answer: bytes
) -> TakenOver | None:
    """See `SqlMembers.take_over`. `now`: by the clock of the node that takes over. `lost_answer`:
    the response to repetitions of idempotent requests that the node was executing.
    """
    as_seen = (
        node.name == seen.name,
        node.epoch == seen.epoch,
        node.beat == seen.beat,
        node.presence == seen.presence.value,
    )
    # FOR UPDATE, unlike an UPDATE, conflicts with locks on the row's key: transactions that hold
    # such a lock end first, and later ones see the new epoch.
    locked = select(node.name).where(*as_seen).with_for_update()
    if connection.execute(locked).first() is None:
        return None
    epoch = connection.execute(select(func.max(node.epoch))).scalar_one() + 1
    change = update(tables.node).where(node.name == seen.name)
    # The report is emptied, so that it isn't read with every heartbeat from now on.
    gone = change.values(epoch=epoch, presence=Presence.GONE.value, report={})
    connection.execute(gone).close()
    slots.free(connection, seen.name)
    # The boot of a start that didn't happen: all of the node's rows are from before it.
    boot = Boot(seen.name, epoch, is_alone=False)
    ended = work_recovery.recover(
        connection, boot, now, is_spool_whole=False, why=work_recovery.TAKEN_OVER
    )
    calls = records.interrupt(connection, boot, now.unix, NODE_LOST)
    for operation in operations.left_by(connection, boot):
        operations.finish(connection, interrupted(operation))
    return TakenOver(
        name=seen.name,
        epoch=epoch,
        calls=calls,
        work=ended,
        deliveries=deliveries.free(connection, boot),
        answers=idempotency.answer_left(connection, boot, lost_answer),
    )
