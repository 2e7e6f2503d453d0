"""The first answer of a request with an `Idempotency-Key` is the answer of all its repetitions."""

import asyncio
import hashlib
import re
from collections.abc import Awaitable, Callable, Mapping
from contextlib import AbstractAsyncContextManager, nullcontext
from weakref import WeakValueDictionary

import msgspec

from quiltfn.model.errors import Conflict, StoreUnavailable, Unprocessable
from quiltfn.model.idempotency import IdempotentRequest, StoredResponse
from quiltfn.ports import Clock, IdempotencyStore

KEY = re.compile(r"[\x21-\x7e]{1,255}")
LOST_STATUS = 503


class Rendered(msgspec.Struct, frozen=True, kw_only=True):
    """An answer as it goes out. `executed` False: refused before anything was done."""

    status: int
    body: bytes
    headers: dict[str, str] = msgspec.field(default_factory=dict)
    executed: bool = True


# Answers that the store could not take are kept in memory up to this many bytes; beyond that, only
# the fact that there was an answer is kept.
LEFT_MAX_BYTES = 16 * 1024 * 1024
# Identifies a request without its body.
Name = tuple[str, str, str, str]


class _Left(msgspec.Struct, frozen=True):
    """What the store has still to be told: the answer, or (None) that the key is free."""

    request: IdempotentRequest
    answer: Rendered | None


class Idempotency:
    """Runs a request once for each key.

    An end that the store does not take is told to it again before the next key is looked up, so
    that a full disk leaves no key that is neither answered nor free. `lost`: the body that is kept
    where there is no answer, or where too many are waiting for the store.
    """

    def __init__(self, answers: IdempotencyStore, clock: Clock, lost: bytes = b"") -> None:
        self._answers, self._clock, self._lost = answers, clock, lost
        self._running: dict[Name, str] = {}  # to the digest of the body
        self._left: dict[Name, _Left] = {}
        self._telling = asyncio.Lock()
        # Whoever comes with the same key at the same time asks the store one after the other.
        self._turns: WeakValueDictionary[Name, asyncio.Lock] = WeakValueDictionary()

    async def run(
        self,
        request: IdempotentRequest,
        execute: Callable[[], Awaitable[Rendered]],
        room: AbstractAsyncContextManager[None] | None = None,
    ) -> Rendered:
        """The first call's answer, or the kept one. Raises `Conflict` while the first still runs,
        `Unprocessable` for another body, and `StoreUnavailable` if the key could not be reserved
        or, with `executed`, if the answer could not be kept: a repetition will get that.
        `room`: what a kept answer is loaded in, since it may be long.
        """
        name = (request.tenant_id, request.method, request.path, request.key)
        turn = self._turns.setdefault(name, asyncio.Lock())
        async with turn, room or nullcontext():
            kept = await self._take(name, request)
        if kept is not None:
            return kept
        # Until more is known, and if we are cancelled: nobody knows how far it came.
        left: _Left | None = _Left(request, self._without_body({}))
        try:
            answer = await execute()
            left = _Left(request, answer if answer.executed else None)
            unkept = await self._tell(left)
            if unkept is None:
                left = None
        finally:
            if left is not None:
                self._left[name] = self._bounded(left)
            del self._running[name]
        if unkept is not None and answer.executed:
            raise _unkept(answer, unkept) from unkept
        return answer  # where that was refused it is refused all the same, and nothing was done

    async def aclose(self) -> None:
        """Tells the store once more what it did not take. The next start answers for the rest."""
        await self._tell_again(None)

    async def _take(self, name: Name, request: IdempotentRequest) -> Rendered | None:
        """Reserves the key (None), or returns the answer to its first call."""
        running = self._running.get(name)
        if running is not None:
            check_body(running, request)
            raise still_runs()
        unkept = await self._tell_again(name)
        if unkept is not None:
            raise unkept
        now, made_at = int(self._clock.trusted()), int(self._clock.timestamp())
        kept = await self._answers.reserve(request, now, made_at)
        if kept is None:
            self._running[name] = request.body_digest
            return None
        check_body(kept.body_digest, request)
        if kept.status is None:
            raise still_runs()
        if not kept.body:
            raise gone(kept)
        return Rendered(
            status=kept.status,
            body=kept.body,
            headers={**kept.headers, "idempotency-replayed": "true"},
        )

    async def _tell(self, left: _Left) -> StoreUnavailable | None:
        """Tells the store; why it does not take it, if so."""
        answer = left.answer
        try:
            if answer is None:
                await self._answers.release(left.request)
            else:
                await self._answers.keep(left.request, answer.status, answer.headers, answer.body)
        except StoreUnavailable as error:
            return error
        return None

    async def _tell_again(self, wanted: Name | None) -> StoreUnavailable | None:
        """Tells the store what it did not take before, that of `wanted` first and the others as far
        as it goes. Why it does not take that of `wanted`, if so.
        """
        # One at a time: released twice, a key could be freed that another request has reserved.
        async with self._telling:
            for name in sorted(self._left, key=lambda one: one != wanted):
                unkept = await self._tell(self._left[name])
                if unkept is not None:
                    return unkept if name == wanted else None
                del self._left[name]
        return None

    def _bounded(self, left: _Left) -> _Left:
        if left.answer is None:
            return left
        waiting = sum(len(one.answer.body) for one in self._left.values() if one.answer)
        if waiting + len(left.answer.body) <= LEFT_MAX_BYTES:
            return left
        return _Left(left.request, self._without_body(left.answer.headers))

    def _without_body(self, headers: Mapping[str, str]) -> Rendered:
        kept = {"content-type": "application/json"}
        if "x-invocation-id" in headers:
            kept["x-invocation-id"] = headers["x-invocation-id"]
        return Rendered(status=LOST_STATUS, body=self._lost, headers=kept)


def _unkept(answer: Rendered, error: StoreUnavailable) -> StoreUnavailable:
    """What the first caller is told of an answer that a repetition could not be given."""
    told = StoreUnavailable(
        f"this was done, but its answer could not be kept for repetitions: {error}", retry_after=1
    )
    told.executed = True
    if "x-invocation-id" in answer.headers:
        told.with_record(answer.headers["x-invocation-id"], executed=True)
    return told


def still_runs() -> Conflict:
    return Conflict("the first call with this Idempotency-Key still runs", retry_after=1)


def check_body(digest: str, request: IdempotentRequest) -> None:
    """Raises `Unprocessable` where the first call with this key had another body."""
    if digest != request.body_digest:
        raise Unprocessable.field(
            "Idempotency-Key", "a new one: this one was used with another body", request.key
        )


def gone(kept: StoredResponse) -> Conflict:
    """The first call was made, but its answer had to make room for later ones."""
    error = Conflict(
        "the first call with this Idempotency-Key was executed; its answer is not kept any longer",
        hint="x-invocation-id names its record, where it was an invocation",
    )
    error.invocation_id = kept.headers.get("x-invocation-id")
    return error


def idempotent_request(
    tenant_id: str, method: str, path: str, key: str, body: bytes
) -> IdempotentRequest:
    """Raises `Unprocessable` for what cannot be a key."""
    if not KEY.fullmatch(key):
        raise Unprocessable.field(
            "Idempotency-Key", "1 to 255 visible ASCII characters", key, "order-2041"
        )
    digest = hashlib.sha256(body).hexdigest()
    return IdempotentRequest(
        tenant_id=tenant_id, method=method, path=path, key=key, body_digest=digest
    )
