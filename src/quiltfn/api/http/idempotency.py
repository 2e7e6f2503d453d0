"""The first response to a request with an `Idempotency-Key` is the response to all repetitions."""

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

# Responses that the store did not take are kept in memory up to so many bytes; beyond that, only
# that there was one.
UNSTORED_MAX_BYTES = 16 * 1024 * 1024
# Identifies a request without its body.
KeyName = tuple[str, str, str, str]
# Gives the response of the call with an id, if that was accepted. It may raise `NotFound`.
Find = Callable[[str], Awaitable[Response | None]]


class _Kept(msgspec.Struct, frozen=True):
    """Of a response, what a repetition gets. No body: only that there was one."""

    status: int
    headers: dict[str, str]
    body: bytes


class _Unstored(msgspec.Struct, frozen=True):
    """What the store still has to be told: the response to keep, or (None) that the key is free."""

    request: IdempotentRequest
    response: _Kept | None


class Idempotency:
    """Runs a request once for each key.

    If the store does not take the end of a request, it is told again before the next key is looked
    up, so that a full disk leaves no key that is neither answered nor free; and every second, for
    another server may be asked next. `lost`: the body that is kept where there is no response, or
    where too many wait for the store.
    """

    def __init__(self, responses: SqlIdempotencyStore, clock: Clock, lost: bytes = b"") -> None:
        self._responses, self._clock, self._lost = responses, clock, lost
        self._running: dict[KeyName, str] = {}  # to the digest of the body
        self._unstored: dict[KeyName, _Unstored] = {}
        self._is_left = asyncio.Event()  # there may be something that is not stored
        self._storing_again = asyncio.Lock()
        # Requests with the same key at the same time ask the store one after the other.
        self._turns: WeakValueDictionary[KeyName, asyncio.Lock] = WeakValueDictionary()

    async def run(
        self,
        request: IdempotentRequest,
        execute: Callable[[], Awaitable[Response]],
        budget: contextlib.AbstractAsyncContextManager[None] | None = None,
        invocation_id: str | None = None,
        find: Find | None = None,
    ) -> Response:
        """The first request's response, or the stored one. Raises `Conflict` while the first one
        still runs, `Unprocessable` for another body or query, and `StoreUnavailable` if the key
        could not be reserved or, with `executed`, if the response could not be stored: a repetition
        will get that. `budget`: the memory in which a stored response is loaded, since it may be
        long. `invocation_id`: of the call that this begins; a repetition is told, whatever happens.
        `find`: what a repetition gets where the first response was lost, by the id of that call.
        """
        name = (request.tenant_id, request.method, request.path, request.key)
        turn = self._turns.setdefault(name, asyncio.Lock())
        async with turn, budget or contextlib.nullcontext():
            kept = await self._take(name, request, _names_call(invocation_id))
        if kept is not None:
            return await _found(kept, find) or _repeated(kept)
        # Until more is known, and if we are cancelled: nobody knows how far it came.
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
        return response  # if it is a refusal, nothing was done, and it stands all the same

    async def tell_again(self) -> None:
        """Until it is cancelled, tells the store what it did not take."""
        while True:
            await self._is_left.wait()
            await asyncio.sleep(STORE_AGAIN_S)
            await self._store_again(None)
            if not self._unstored:
                self._is_left.clear()

    async def aclose(self) -> None:
        """Tells the store once more what it did not take. The next start answers for the rest."""
        await self._store_again(None)

    async def _take(
        self, name: KeyName, request: IdempotentRequest, headers: dict[str, str]
    ) -> StoredResponse | None:
        """Reserves the key (None), or returns the response to its first request. `headers`: of what
        is stored in its place if this server dies.
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
        except OutcomeUnknown:  # nothing was done, so a key that the store took is to be free
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
        """As `IdempotencyStore.reserve` says."""
        now, made_at = int(self._clock.trusted()), int(self._clock.timestamp())
        kept = await self._responses.reserve(request, now, made_at, headers)
        if kept is None or kept.status is not None:
            return kept
        # Nothing runs with it here. So another server runs it, or the store took an earlier
        # request's key and could not say so.
        check_body(kept.body_digest, request)
        return await self._responses.reserve(request, now, made_at, headers, again=True)

    def _leave(self, name: KeyName, end: _Unstored) -> None:
        """The store is to be told that, and did not take it."""
        self._unstored[name] = self._bounded(end)
        self._is_left.set()

    async def _store(self, end: _Unstored) -> StoreUnavailable | None:
        """Tells the store; returns why it does not take it, if so."""
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
        """Tells the store what it did not take before: that of `wanted` first, and the others until
        one is not taken. Returns why that of `wanted` was not taken, if so.
        """
        async with (
            self._storing_again
        ):  # released twice, a key could be freed that is reserved anew
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
    """The headers that are kept with a key until there is a response, and in its place if it is
    lost. They have no content type, which every response has: see `_is_lost`.
    """
    return {} if invocation_id is None else {INVOCATION_ID: invocation_id}


def _is_lost(kept: StoredResponse) -> bool:
    """Whether what is kept is in place of a response."""
    return CONTENT_TYPE not in kept.headers


async def _found(kept: StoredResponse, find: Find | None) -> Response | None:
    """In place of a response that was lost: that of the call that was accepted all the same."""
    invocation_id = kept.headers.get(INVOCATION_ID)  # an earlier version kept none
    if find is None or invocation_id is None or not _is_lost(kept):
        return None
    with contextlib.suppress(NotFound):
        found = await find(invocation_id)
        if found is not None:
            found.headers.append(REPLAYED)
        return found
    return None


def _repeated(kept: StoredResponse) -> Response:
    """What is kept, as it is sent."""
    assert kept.status is not None
    headers = {CONTENT_TYPE: JSON, **kept.headers}  # of a lost one the body is JSON as well
    return Response(status=kept.status, headers=[*headers.items(), REPLAYED], body=kept.body)


def _kept(response: Response) -> _Kept:
    """What is kept of a response; of a stream, that there was one. The headers as they are now: the
    id of this request is not part of what a repetition gets.
    """
    body = response.body if isinstance(response.body, bytes) else b""
    headers: dict[str, str] = {}
    # The values of one name may go out as a list (RFC 9110, 5.3).
    for name, value in response.headers:
        headers[name] = f"{headers[name]}, {value}" if name in headers else value
    return _Kept(response.status, headers, body)


def _not_stored(response: Response, error: StoreUnavailable) -> StoreUnavailable:
    """What the first client is told of a response that a repetition could not be given."""
    problem = StoreUnavailable(
        f"this was done, but its answer could not be kept for repetitions: {error}", retry_after=1
    )
    problem.executed = True
    invocation_id = response.header(INVOCATION_ID)
    if invocation_id is not None:
        problem.with_record(invocation_id, executed=True)
    return problem


def still_runs() -> Conflict:
    return Conflict("the first call with this Idempotency-Key still runs", retry_after=1)


def check_body(digest: str, request: IdempotentRequest) -> None:
    """Raises `Unprocessable` where the first call with this key had another body or query."""
    if digest != request.body_digest:
        expected = "a new one: this one was used with another body or query"
        raise Unprocessable.field("Idempotency-Key", expected, request.key)


def gone(kept: StoredResponse) -> Conflict:
    """The first call was made, but its answer had to make room for later ones."""
    error = Conflict(
        "the first call with this Idempotency-Key was executed; its answer is not kept any longer",
        hint=NAMES_RECORD,
    )
    error.invocation_id = kept.headers.get(INVOCATION_ID)
    return error


def idempotent_request(
    tenant_id: str, method: str, path: str, key: str, body: bytes, query: bytes = b""
) -> IdempotentRequest:
    """Raises `Unprocessable` for what cannot be a key. `query`: as it was sent."""
    if not KEY.fullmatch(key):
        raise Unprocessable.field(
            "Idempotency-Key", "1 to 255 visible ASCII characters", key, "order-2041"
        )
    digest = hashlib.sha256(body)
    if query:  # The digest of a body alone is what earlier versions have stored.
        digest = hashlib.sha256(digest.digest() + query)
    return IdempotentRequest(
        tenant_id=tenant_id, method=method, path=path, key=key, body_digest=digest.hexdigest()
    )
