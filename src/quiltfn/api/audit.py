"""What the API writes into the audit log: every request that changes something, or was refused to.

Rule 1: a request whose work was begun has an entry in any case.
Rule 2: one that was refused before that has an entry, too. But nobody may fill the store with
refusals, so each credential, and all callers without one together, have a hundred entries at once
and then one a minute. Those beyond are in the log and in quiltfn_refused_requests_total.
"""

import contextlib
from typing import Any

import msgspec

from quiltfn.api.http.response import Response
from quiltfn.api.http.route import RequestContext
from quiltfn.base.ids import new_id
from quiltfn.model.access import Scope
from quiltfn.model.audit import AuditEntry
from quiltfn.model.errors import StoreUnavailable
from quiltfn.ports import Clock
from quiltfn.store.tenants.audit import SqlAudit

REFUSALS_AT_ONCE = 100
REFUSAL_EVERY_S = 60.0
CREDENTIALS_MAX = 10_000
OBJECT_MAX = 128  # a path that is refused may hold anything


class _Allowance(msgspec.Struct):
    """How many refusals may have an entry, as of `at`."""

    left: float
    at: float


class AuditLog:
    """The API's side of the audit log."""

    def __init__(self, audit: SqlAudit, clock: Clock) -> None:
        self._audit, self._clock = audit, clock
        self._allowances: dict[str, _Allowance] = {}

    async def executed(
        self, context: RequestContext[Any], response: Response, code: str | None
    ) -> None:
        """Keeps the entry of a request whose work was begun. Raises `StoreUnavailable`."""
        context.is_executed = True
        if context.action is not None:
            await self._append(context, response, code)

    async def refused(self, context: RequestContext[Any], response: Response, code: str) -> None:
        """Keeps the entry of a call that was refused before its work, while there is room.

        Nothing was changed, so the refusal stands whether the store takes the entry or not.
        """
        if context.action is None or context.is_executed:
            return
        if not self._may_append(context.caller.credential):
            return
        with contextlib.suppress(StoreUnavailable):
            await self._append(context, response, code)

    async def _append(
        self, context: RequestContext[Any], response: Response, code: str | None
    ) -> None:
        assert context.action is not None
        named = next(iter(context.parameters.values()), None)
        object_id = response.object_id or (named and named[:OBJECT_MAX])
        entry = AuditEntry(
            id=new_id(),
            at=int(self._clock.timestamp()),
            tenant_id=_tenant_of(context, code),
            credential=context.caller.credential,
            action=context.action,
            object_id=object_id,
            status=response.status,
            error_code=code,
            address=context.request.client,
            request_id=context.request_id,
            object_name=response.object_name or _name_of(context, object_id),
        )
        await self._audit.append(entry)

    def _may_append(self, credential: str) -> bool:
        now = self._clock.now()
        if len(self._allowances) > CREDENTIALS_MAX:  # a flood of subjects must not fill the memory
            self._allowances.clear()
        allowance = self._allowances.setdefault(credential, _Allowance(REFUSALS_AT_ONCE, now))
        allowance.left = min(
            REFUSALS_AT_ONCE, allowance.left + (now - allowance.at) / REFUSAL_EVERY_S
        )
        allowance.at = now
        if allowance.left < 1:
            return False
        allowance.left -= 1
        return True


def _tenant_of(context: RequestContext[Any], code: str | None) -> str:
    """Whose log has the entry: that of the tenant that was changed, which the path may name."""
    named = context.parameters.get("tenant")
    is_changed = code is None and context.caller.scope.includes(Scope.OPERATOR)
    return named if named is not None and is_changed else context.tenant_id


def _name_of(context: RequestContext[Any], object_id: str | None) -> str | None:
    """What a function of the tenant is called; nobody learns the name of somebody else's."""
    entry = None if object_id is None else context.services.catalog.known(object_id)
    is_own = entry is not None and entry.function.tenant_id == context.tenant_id
    return entry.function.name if entry is not None and is_own else None
