"""The responses to idempotent requests, in the database.

Beyond a limit in bytes, the oldest bodies are removed. Their rows stay, so that a repetition is
refused instead of executed.

A row is made before its request is executed and completed afterwards:
    (absent) ──reserve──▶ running ──complete──▶ answered ──24 h──▶ (absent)
                             ├──release──▶ (absent)      a running one never expires
                             └──the server dies, start──▶ answered: interrupted
"""

import time
from collections.abc import Mapping

import msgspec
from sqlalchemy import (
    ColumnElement,
    Connection,
    and_,
    delete,
    insert,
    or_,
    select,
    update,
)

from quiltfn.model.errors import CapacityFull, RateLimited
from quiltfn.model.idempotency import (
    LOST_STATUS,
    NO_HEADERS,
    IdempotentRequest,
    StoredResponse,
)
from quiltfn.model.retention import StorageLimit
from quiltfn.store.database import tables
from quiltfn.store.database.database import Database
from quiltfn.store.database.nodes import Boot, of_earlier_boots
from quiltfn.store.database.sql import run
from quiltfn.store.tenants import usage

# A step removes at least LEAST bodies, so that no request is refused because the machine is busy.
KEPT_S, STEP_S, LEAST = 24 * 3600, 0.002, 16

answer = tables.idempotent_answer
NO_BOUND = StorageLimit()


class SqlIdempotencyStore:
    """The first response to each request with an `Idempotency-Key`, kept for 24 hours. Call `start`
    before `reserve`.
    """

    def __init__(self, database: Database, bound: StorageLimit = NO_BOUND) -> None:
        self._database, self._bound = database, bound
        # The body for requests that an earlier start left unfinished, until their rows have it.
        self._interrupted: bytes | None = None

    async def start(self, interrupted: bytes) -> None:
        """Stores the error body `interrupted` for each request that earlier starts of this server
        left unfinished.

        The request may have been executed, so a repetition must not execute it again. On a full
        disk `reserve` already returns the body, which is stored when there is space. Raises
        `StoreBroken` if a tool beside a server calls it.
        """
        boot, self._interrupted = self._database.boot, interrupted

        def stored() -> None:
            self._interrupted = None

        def work(connection: Connection) -> None:
            answer_left(connection, boot, interrupted)

        await self._database.write_or_put_off(work, stored)

    def _is_own(self) -> ColumnElement[bool]:
        """Whether this start of the server made the row and has not stored a response in it."""
        boot = self._database.boot
        is_own = and_(answer.c.node_id == boot.node_id, answer.c.epoch == boot.epoch)
        return and_(answer.c.status.is_(None), is_own)

    def _is_running(self, request: IdempotentRequest) -> ColumnElement[bool]:
        """Whether this start of the server made the row for this request, and has not stored a
        response in it. The row can also be another server's: if a release of the key succeeded
        without this server's knowledge, and another server then reserved the key.
        """
        return and_(self._is_own(), answer.c.body_digest == request.body_digest)

    async def reserve(
        self,
        request: IdempotentRequest,
        now: int,
        made_at: int | None = None,
        headers: Mapping[str, str] = NO_HEADERS,
        again: bool = False,
    ) -> StoredResponse | None:
        """Reserves the key for a first request (returns None), or returns the existing row, in one
        step.

        The row is on disk before this returns, so a crash cannot execute the request twice. `now`:
        trusted time; `made_at`: the row's time stamp, if different. A request that still runs keeps
        its key. `headers`: those of the response if the server ends first. `again`: an earlier
        reservation by this server may have succeeded without its knowledge; that request is not
        running.
        """
        unused = is_expired(now)
        if again:
            unused = or_(unused, self._is_own())
        expired = delete(answer).where(at(request), unused)
        stamp = now if made_at is None else made_at
        row = tables.row_of(request) | {"headers": dict(headers), "body": b"", "made_at": stamp}
        row |= tables.owned_by(self._database.boot)

        def work(connection: Connection) -> StoredResponse | RateLimited | CapacityFull | None:
            # The transaction has the write lock from its start, so no other writer can come in
            # between.
            connection.execute(expired)
            found = tables.read_one(connection, select(answer).where(at(request)), StoredResponse)
            if found is not None:
                return self._as_ended(connection, request, found)
            connection.execute(insert(answer), row)
            self._make_room(connection)
            refused = self._refused(connection, request.tenant_id)
            if refused is not None:  # A refusal commits, too, so that the removals stay.
                connection.execute(delete(answer).where(at(request)))
            return refused

        found = await self._database.write(work)
        if isinstance(found, Exception):
            raise found
        return found

    def _as_ended(
        self, connection: Connection, request: IdempotentRequest, found: StoredResponse
    ) -> StoredResponse:
        """The row's response, or the error body that the start could not store in it yet."""
        if self._interrupted is None or found.status is not None:
            return found
        left = is_left(self._database.boot)
        if connection.execute(select(answer.c.key).where(at(request), left)).first():
            return msgspec.structs.replace(found, status=LOST_STATUS, body=self._interrupted)
        return found

    async def complete(
        self, request: IdempotentRequest, status: int, headers: dict[str, str], body: bytes
    ) -> None:
        """Stores the response to the first request. Does nothing if the key now belongs to another
        request.

        May use the reserve of a full disk, since the request was accepted.
        """
        change = update(answer).where(at(request), self._is_running(request))
        values = {"status": status, "headers": headers, "body": body}

        def work(connection: Connection) -> None:
            # As parameters, since SQLAlchemy's cache keeps values that are part of a statement.
            connection.execute(change, values)
            self._make_room(connection)

        await self._database.write(work, frees=True)

    def _make_room(self, connection: Connection) -> None:
        """Removes the oldest bodies of tenants over the limit, until the step's time is over. The
        keys stay, so that their requests are not executed again.
        """
        until = time.perf_counter() + STEP_S
        turn = 0
        while surpluses := usage.surpluses(connection, usage.ANSWER, self._bound):
            named = {"tenant_id": surpluses[0].tenant_id}
            run(connection, "drop_body", named)
            turn += 1
            if turn >= LEAST and time.perf_counter() >= until:
                return

    def _refused(self, connection: Connection, tenant_id: str) -> RateLimited | CapacityFull | None:
        """The reason for refusing the key that was just reserved, or None.

        Called after removing stored responses: the tenant, or all tenants, may still be over the
        limit.
        """
        has = usage.of_tenant(connection, usage.ANSWER, tenant_id)
        if 0 < self._bound.tenant < has:
            return RateLimited(
                "the tenant has used as many Idempotency-Keys in 24 hours as there is room for",
                hint="repeat without a key what may be done twice",
                retry_after=60,
            )
        if 0 < self._bound.all < usage.of_all(connection, usage.ANSWER):
            return CapacityFull("there is no room for another Idempotency-Key", retry_after=60)
        return None

    async def release(self, request: IdempotentRequest) -> None:
        """Frees the key: the request was refused before its execution. Keeps a stored response."""
        removal = delete(answer).where(at(request), self._is_running(request))
        await self._database.write(lambda c: c.execute(removal).close(), frees=True)

    async def prune(self, now: int) -> int:
        """Removes responses older than 24 hours, in small steps; returns their number."""
        key = (answer.c.tenant_id, answer.c.method, answer.c.path, answer.c.key)
        return await self._database.delete(key, is_expired(now))


def is_left(boot: Boot) -> ColumnElement[bool]:
    """Whether an earlier boot of a server left the row without a response."""
    left = of_earlier_boots(boot, answer.c.node_id, answer.c.epoch)
    return and_(answer.c.status.is_(None), left)


def answer_left(connection: Connection, boot: Boot, interrupted: bytes) -> int:
    """Stores the error body `interrupted` for each request that earlier boots of a server left
    unfinished; returns their number.
    """
    values = {"status": LOST_STATUS, "body": interrupted}
    return connection.execute(update(answer).where(is_left(boot)).values(values)).rowcount


def at(request: IdempotentRequest) -> ColumnElement[bool]:
    """Whether a row has this request's key, even with another body."""
    return and_(
        answer.c.tenant_id == request.tenant_id,
        answer.c.method == request.method,
        answer.c.path == request.path,
        answer.c.key == request.key,
    )


def is_expired(now: int) -> ColumnElement[bool]:
    """Whether a row is older than 24 hours by trusted time, and its request has ended."""
    return and_(answer.c.made_at <= now - KEPT_S, answer.c.status.is_not(None))
