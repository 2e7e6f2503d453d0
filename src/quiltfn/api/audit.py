"""What the API writes into the audit trail: every changing call, and those refused before it.

Rule 1: a call whose work was begun has an entry in any case.
Rule 2: one that was refused before has an entry, too, but whoever is refused without end must not
fill the store: of each credential, and of all callers without one together, a hundred come at once
and then one a minute. Those beyond are in the log and in quiltfn_refused_requests_total.
"""

import contextlib
from dataclasses import dataclass

import msgspec
from starlette.requests import Request

from quiltfn.api.route import Route
from quiltfn.idempotency import Rendered
from quiltfn.ids import new_id
from quiltfn.model.access import Caller, Scope
from quiltfn.model.audit import AuditEntry
from quiltfn.model.errors import StoreUnavailable
from quiltfn.ports import Audit, Clock

REFUSALS_AT_ONCE = 100
REFUSAL_EVERY_S = 60.0
CREDENTIALS_MAX = 10_000
OBJECT_MAX = 128  # a path that is refused may hold anything
NOBODY = Caller(tenant_id="", scope=Scope.READ, credential="nobody")


class Visit(msgspec.Struct, kw_only=True):
    """A request on its way. `caller`: NOBODY until a credential says more. `body`: until it is
    parsed; None where it has not been read. `held`: bytes of room that it takes.
    """

    request: Request
    request_id: str
    route: Route | None
    caller: Caller = NOBODY
    is_begun: bool = False
    body: bytes | None = None
    held: int = 0

    def take_body(self) -> bytes:
        """The body, which is not kept here as well."""
        body, self.body = self.body, None
        return body or b""

    @property
    def action(self) -> str | None:
        """Its name in the trail, where it is there to change something."""
        return self.route.action if self.route is not None else None

    @property
    def address(self) -> str:
        """Where it came from."""
        return self.request.client.host if self.request.client else "unknown"


@dataclass(slots=True)
class _Room:
    """How many refusals may have an entry, as of `at`."""

    left: float
    at: float


class AuditLog:
    """The API's side of the audit trail."""

    def __init__(self, audit: Audit, clock: Clock) -> None:
        self._audit, self._clock = audit, clock
        self._rooms: dict[str, _Room] = {}

    async def executed(
        self, visit: Visit, answer: Rendered, code: str | None, object_id: str | None
    ) -> None:
        """Keeps the entry of a call whose work was begun. Raises `StoreUnavailable`."""
        visit.is_begun = True
        if visit.action is not None:
            await self._append(visit, answer, code, object_id)

    async def refused(self, visit: Visit, answer: Rendered, code: str) -> None:
        """Keeps the entry of a call that was refused before its work, while there is room.

        Nothing was changed, so the refusal stands whether the store takes the entry or not.
        """
        if visit.action is None or visit.is_begun or not self._has_room(visit.caller.credential):
            return
        with contextlib.suppress(StoreUnavailable):
            await self._append(visit, answer, code, None)

    async def _append(
        self, visit: Visit, answer: Rendered, code: str | None, object_id: str | None
    ) -> None:
        assert visit.action is not None
        named = next(iter(visit.request.path_params.values()), None)
        entry = AuditEntry(
            id=new_id(),
            at=int(self._clock.timestamp()),
            tenant_id=visit.caller.tenant_id,
            credential=visit.caller.credential,
            action=visit.action,
            object_id=object_id or (named and named[:OBJECT_MAX]),
            status=answer.status,
            error_code=code,
            address=visit.address,
            request_id=visit.request_id,
        )
        await self._audit.append(entry)

    def _has_room(self, credential: str) -> bool:
        now = self._clock.now()
        if len(self._rooms) > CREDENTIALS_MAX:  # a flood of subjects must not fill the memory
            self._rooms.clear()
        room = self._rooms.setdefault(credential, _Room(REFUSALS_AT_ONCE, now))
        room.left = min(REFUSALS_AT_ONCE, room.left + (now - room.at) / REFUSAL_EVERY_S)
        room.at = now
        if room.left < 1:
            return False
        room.left -= 1
        return True
