"""Repeats the first response for all requests with the same `Idempotency-Key`."""

import asyncio
import contextlib
import hashlib
import re
from collections.abc import Awaitable, Callable
from weakref import WeakValueDictionary

import msgspec

from quiltfn.api.http.response import INVOCATION_ID, JSON, Response
from quiltfn.model.errors import (
    Conflict,
    NotFound,
    OutcomeUnknown,
    StoreUnavailable,
    Unprocessable,
)
from quiltfn.model.idempotency import LOST_STATUS, IdempotentRequest, StoredResponse
from quiltfn.ports import STORE_AGAIN_S, Clock
from quiltfn.store.tenants.idempotency import SqlIdempotencyStore

KEY = re.compile(r"[\x21-\x7e]{1,255}")
CONTENT_TYPE = "content-type"
NAMES_RECORD = (
    f"{INVOCATION_ID} names its record, where it was an invocation; "
    "one without a record did not run"
)
REPLAYED = ("idempotency-replayed", "true")

# The limit of memory for responses that could not be stored. Further responses count as lost: only
# the fact that there was a response is stored.
UNSTORED_MAX_BYTES = 16 * 1024 * 1024
# Tenant, method, path and key: a request without its body.
KeyName = tuple[str, str, str, str]
# Returns the response for an invocation id if that invocation was queued. May raise `NotFound`.
Find = Callable[[str], Awaitable[Response | None]]


class _Kept(msgspec.Struct, frozen=True):
    """The part of a response that a repetition gets. `body`: empty if it is not stored."""

    status: int
    headers: dict[str, str]
    body: bytes


class _Unstored(msgspec.Struct, frozen=True):
    """A pending write to the store: the response to keep or, if None, the release of the key."""

    request: IdempotentRequest
    response: _Kept | None


class Idempotency:
    """Runs a request once for each key.

    If the store rejects the outcome of a request, the write is retried every second, because the
    repetition may go to another server, and before the next key lookup. So after a full disk, each
    key has its response or is free. `lost`: the body to store if there is no response, or if too
    many bytes wait for the store.
    """

    def __init__(self, responses: SqlIdempotencyStore, clock: Clock, lost: bytes = b"") -> None:
        self._responses, self._clock, self._lost = responses, clock, lost
        self._running: dict[KeyName, str] = {}  # the digest of the body
        self._unstored: dict[KeyName, _Unstored] = {}
        self._is_left = asyncio.Event()  # a write may be pending
        self._storing_again = asyncio.Lock()
        # Concurrent requests with one key query the store one after the other.
        self._turns: WeakValueDictionary[KeyName, asyncio.Lock] = WeakValueDictionary()

    async def prune(self, now: int) -> None:
        """Remove the responses that have expired by `now`."""
        await self._responses.prune(now)

    async def run(
        self,
        request: IdempotentRequest,
        execute: Callable[[], Awaitable[Response]],
        budget: contextlib.AbstractAsyncContextManager[None] | None = None,
        invocation_id: str | None = None,
        find: Find | None = None,
    ) -> Response:
        """Returns the response of the first request, new or stored. Raises `Conflict` while the
        first request runs or if the body of its response is not stored, `Unprocessable` for another
        body or query, and `StoreUnavailable` if the key could not be reserved, or (with `executed`)
        if the response could not be stored yet: a repetition will get it. `budget`: the memory to
        load a stored response, which may be long.
        `invocation_id`: the id of the invocation that `execute` begins; a repetition gets the id
        even if the response was lost, and `find` then finds the response by it.
        """
        name = (request.tenant_id, request.method, request.path, request.key)
        turn = self._turns.setdefault(name, asyncio.Lock())
        async with turn, budget or contextlib.nullcontext():
            kept = await self._take(name, request, _names_call(invocation_id))
        if kept is not None:
            return await _found(kept, find) or _repeated(kept)
        # Stored if `execute` is cancelled or its progress is unknown.
        end = _Unstored(request, self._without_body(invocation_id))
        unstored: _Unstored | None = end
        try:
            response = await execute()
            if not response.is_unknown:
                end = _Unstored(request, _kept(response) if response.executed else None)
            unstored = end
            error = await self._store(end)
            if error is None:
                unstored = None
        finally:
            if unstored is not None:
                self._leave(name, unstored)
            del self._running[name]
        if error is not None and response.executed and not response.is_unknown:
            raise _not_stored(response, error) from error
        return response  # a refusal is valid even if not stored, since it did nothing

    async def tell_again(self) -> None:
        """Retries pending writes until cancelled."""
        while True:
            await self._is_left.wait()
            await asyncio.sleep(STORE_AGAIN_S)
            await self._store_again(None)
            if not self._unstored:
                self._is_left.clear()

    async def aclose(self) -> None:
        """Retries pending writes once. The next start handles the rest."""
        await self._store_again(None)

    async def _take(
        self, name: KeyName, request: IdempotentRequest, headers: dict[str, str]
    ) -> StoredResponse | None:
        """Reserves the key (returns None), or returns the response to its first request. `headers`:
        stored at once, as a substitute for the response if this server dies.
        """
        running = self._running.get(name)
        if running is not None:
            check_body(running, request)
            raise still_runs()
        error = await self._store_again(name)
        if error is not None:
            raise error
        try:
            kept = await self._reserved(request, headers)
        except OutcomeUnknown:  # nothing was done: free the key, if the store reserved it
            self._leave(name, _Unstored(request, None))
            raise
        if kept is None:
            self._running[name] = request.body_digest
            return None
        check_body(kept.body_digest, request)
        if kept.status is None:
            raise still_runs()
        if not kept.body:
            raise gone(kept)
        return kept

    async def _reserved(
        self, request: IdempotentRequest, headers: dict[str, str]
    ) -> StoredResponse | None:
        """As `SqlIdempotencyStore.reserve`."""
        now, made_at = int(self._clock.trusted()), int(self._clock.timestamp())
        kept = await self._responses.reserve(request, now, made_at, headers)
        if kept is None or kept.status is not None:
            return kept
        # No request with this key runs here. So a request runs on another server, or the store
        # reserved the key for an earlier request but could not confirm that.
        check_body(kept.body_digest, request)
        return await self._responses.reserve(request, now, made_at, headers, again=True)

    def _leave(self, name: KeyName, end: _Unstored) -> None:
        """Queues a write that the store rejected."""
        self._unstored[name] = self._bounded(end)
        self._is_left.set()

    async def _store(self, end: _Unstored) -> StoreUnavailable | None:
        """Writes to the store; returns the error if that fails."""
        response = end.response
        try:
            if response is None:
                await self._responses.release(end.request)
            else:
                status, headers, body = response.status, response.headers, response.body
                await self._responses.complete(end.request, status, headers, body)
        except StoreUnavailable as error:
            return error
        return None

    async def _store_again(self, wanted: KeyName | None) -> StoreUnavailable | None:
        """Retries pending writes: first that of `wanted`, then the others until one fails. Returns
        the error of `wanted`, if its write failed.
        """
        async with self._storing_again:  # a second release could free a key that was reserved again
            for name in sorted(self._unstored, key=lambda key: key != wanted):
                error = await self._store(self._unstored[name])
                if error is not None:
                    return error if name == wanted else None
                del self._unstored[name]
        return None

    def _bounded(self, end: _Unstored) -> _Unstored:
        if end.response is None:
            return end
        waiting = sum(len(one.response.body) for one in self._unstored.values() if one.response)
        if waiting + len(end.response.body) <= UNSTORED_MAX_BYTES:
            return end
        return _Unstored(end.request, self._without_body(end.response.headers.get(INVOCATION_ID)))

    def _without_body(self, invocation_id: str | None) -> _Kept:
        return _Kept(LOST_STATUS, _names_call(invocation_id), self._lost)


def _names_call(invocation_id: str | None) -> dict[str, str]:
    """The headers stored for a key while there is no response, or if it was lost. They lack the
    content type that every response has: see `_is_lost`.
    """
    return {} if invocation_id is None else {INVOCATION_ID: invocation_id}


def _is_lost(kept: StoredResponse) -> bool:
    """Whether the stored entry stands for a lost response."""
    return CONTENT_TYPE not in kept.headers


async def _found(kept: StoredResponse, find: Find | None) -> Response | None:
    """If the response was lost, finds the queued invocation and returns its response."""
    invocation_id = kept.headers.get(INVOCATION_ID)  # earlier versions stored no id
    if find is None or invocation_id is None or not _is_lost(kept):
        return None
    with contextlib.suppress(NotFound):
        found = await find(invocation_id)
        if found is not None:
            found.headers.append(REPLAYED)
        return found
    return None


def _repeated(kept: StoredResponse) -> Response:
    """Builds the repeated response."""
    assert kept.status is not None
    headers = {CONTENT_TYPE: JSON, **kept.headers}  # the body for a lost response is JSON, too
    return Response(status=kept.status, headers=[*headers.items(), REPLAYED], body=kept.body)


def _kept(response: Response) -> _Kept:
    """The part of a response to store: of a stream, everything but the body. Copies the headers
    now: later they get the id of this request, which repetitions must not get.
    """
    body = response.body if isinstance(response.body, bytes) else b""
    headers: dict[str, str] = {}
    # Values of one header may be joined to a list (RFC 9110, 5.3).
    for name, value in response.headers:
        headers[name] = f"{headers[name]}, {value}" if name in headers else value
    return _Kept(response.status, headers, body)


def _not_stored(response: Response, error: StoreUnavailable) -> StoreUnavailable:
    """The error for the first client if its response could not be stored for repetitions."""
    own_error = StoreUnavailable(
        f"this was done, but its answer could not be kept for repetitions: {error}", retry_after=1
    )
    own_error.executed = True
    invocation_id = response.header(INVOCATION_ID)
    if invocation_id is not None:
        own_error.with_record(invocation_id, executed=True)
    return own_error


def still_runs() -> Conflict:
    return Conflict("the first call with this Idempotency-Key still runs", retry_after=1)


def check_body(digest: str, request: IdempotentRequest) -> None:
    """Raises `Unprocessable` if the first request with this key had another body or query."""
    if digest != request.body_digest:
        expected = "a new one: this one was used with another body or query"
        raise Unprocessable.field("Idempotency-Key", expected, request.key)


def gone(kept: StoredResponse) -> Conflict:
    """The error if the first request was executed, but the body of its response is not stored: it
    was a stream, or was removed to make room.
    """
    error = Conflict(
        "the first call with this Idempotency-Key was executed; its answer is not kept any longer",
        hint=NAMES_RECORD,
    )
    error.invocation_id = kept.headers.get(INVOCATION_ID)
    return error


def idempotent_request(
    tenant_id: str, method: str, path: str, key: str, body: bytes, query: bytes = b""
) -> IdempotentRequest:
    """Raises `Unprocessable` for an invalid key. `query`: as sent."""
    if not KEY.fullmatch(key):
        raise Unprocessable.field(
            "Idempotency-Key", "1 to 255 visible ASCII characters", key, "order-2041"
        )
    digest = hashlib.sha256(body)
    if query:  # Earlier versions stored the digest of the body only.
        digest = hashlib.sha256(digest.digest() + query)
    return IdempotentRequest(
        tenant_id=tenant_id, method=method, path=path, key=key, body_digest=digest.hexdigest()
    )
