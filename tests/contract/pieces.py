"""Asynchronous work for the test suites of its store."""

from typing import Any

from msgspec.structs import replace

from contract.stores import done
from quiltfn.base.ids import new_id
from quiltfn.model.function import Function
from quiltfn.model.invocation import Invocation, Source, Status, WorkOutcome
from quiltfn.ports.work import AcceptedWork, Input
from quiltfn.store import SpoolJournal, SqlWork

NOW_S = 1_760_000_100
NOW_MS = NOW_S * 1000
HOUR_MS = 3_600_000


def a_piece(function: Function, payload: bytes = b'{"n": 1}', **changes: Any) -> AcceptedWork:
    """Asynchronous work that is due."""
    record = Invocation(
        invocation_id=new_id(),
        tenant_id=function.tenant_id,
        function_id=function.id,
        function_name=function.name,
        execution_node_id="node-1",
        status=Status.QUEUED,
        source=Source.ASYNC,
        due_at=NOW_S,
    )
    piece = AcceptedWork(
        record=record,
        input=Input(payload=payload, environment={"COLOUR": "blue"}, caller="key-1"),
        given_at=1_760_000_000,
        due_at_ms=NOW_MS,
        expires_at_ms=NOW_MS + HOUR_MS,
        max_queued=1000,
    )
    return replace(piece, **changes)


def begun(record: Invocation) -> Invocation:
    """The record of claimed work once an instance has got it."""
    return replace(record, status=Status.RUNNING, started_at=NOW_S, version=1)


async def an_accepted(queue: SqlWork, function: Function, **changes: Any) -> str:
    piece = a_piece(function, **changes)
    await queue.accept(piece)
    return piece.record.invocation_id


async def claimed(
    queue: SqlWork, function: Function, limit: int = 1, now_ms: int = NOW_MS
) -> list[Invocation]:
    """Make one claim; return the records of the claimed work."""
    claim = await queue.claim(function.id, limit, now_ms, is_begun=False)
    return [one.record for one in claim.work]


async def attempted(
    journal: SpoolJournal, record: Invocation, code: int = 0, **outcome: Any
) -> Invocation:
    """Start and end claimed work, and commit both."""
    journal.opened(begun(record))
    ended = replace(done(begun(record), code), outcome=WorkOutcome(**outcome))
    journal.closed(ended)
    await journal.synced()
    return ended
