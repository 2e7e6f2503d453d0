"""The first answer of a request with an `Idempotency-Key` is the answer of all its repetitions."""

import hashlib
import re
from collections.abc import Awaitable, Callable

import msgspec

from quiltfn.model.errors import Conflict, QuiltfnError, Unprocessable
from quiltfn.model.kept import Slot
from quiltfn.ports import Answers, Clock

KEY = re.compile(r"[\x21-\x7e]{1,255}")


class Rendered(msgspec.Struct, frozen=True, kw_only=True):
    """An answer as it goes out. `executed` False: refused before anything was done."""

    status: int
    body: bytes
    headers: dict[str, str] = msgspec.field(default_factory=dict)
    executed: bool = True


class Idempotency:
    """Runs a request once for each key."""

    def __init__(self, answers: Answers, clock: Clock) -> None:
        self._answers, self._clock = answers, clock

    async def run(self, slot: Slot, execute: Callable[[], Awaitable[Rendered]]) -> Rendered:
        """The first call's answer, or the kept one. Raises `Conflict` while the first still runs,
        `Unprocessable` for another body.
        """
        now, made_at = int(self._clock.settled()), int(self._clock.stamp())
        kept = await self._answers.reserve(slot, now, made_at)
        if kept is None:
            return await self._first(slot, execute)
        if kept.body_digest != slot.body_digest:
            raise Unprocessable.field(
                "Idempotency-Key", "a new one: this one was used with another body", slot.key
            )
        if kept.status is None:
            raise Conflict("the first call with this Idempotency-Key still runs", retry_after=1)
        return Rendered(
            status=kept.status,
            body=kept.body,
            headers={**kept.headers, "idempotency-replayed": "true"},
        )

    async def _first(self, slot: Slot, execute: Callable[[], Awaitable[Rendered]]) -> Rendered:
        # If we are cancelled or killed in here the slot stays taken: better an answer that says so
        # than a second execution.
        answer = await execute()
        if answer.executed:
            await self._answers.keep(slot, answer.status, answer.headers, answer.body)
        else:
            await self._answers.release(slot)
        return answer


def slot_for(tenant_id: str, method: str, path: str, key: str, body: bytes) -> Slot:
    """Raises `Unprocessable` for what cannot be a key."""
    if not KEY.fullmatch(key):
        raise Unprocessable.field(
            "Idempotency-Key", "1 to 255 visible ASCII characters", key, "order-2041"
        )
    digest = hashlib.sha256(body).hexdigest()
    return Slot(tenant_id=tenant_id, method=method, path=path, key=key, body_digest=digest)


def was_executed(error: QuiltfnError) -> bool:
    """Whether a refusal came after something had been done: it then has a record."""
    return error.invocation_id is not None
