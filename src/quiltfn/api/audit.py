"""The API's entries in the audit log: one for every request to change something, even if it is
refused.

Rule 1: a request whose execution has started always has an entry.
Rule 2: a request that was refused before its execution also has an entry, within a limit, so that
refusals cannot fill the store. Each credential, and all callers without one together, can have a
hundred entries at once and then one a minute. Further refusals are only in the server's log and in
quiltfn_refused_requests_total.
"""

import contextlib

import msgspec

from quiltfn.api.http.response import Response
from quiltfn.api.http.route import AnyContext
from quiltfn.base.ids import new_id
from quiltfn.model.access import Scope
from quiltfn.model.audit import AuditEntry
from quiltfn.model.errors import StoreUnavailable
from quiltfn.ports import Clock
from quiltfn.store.tenants.audit import SqlAudit

REFUSALS_AT_ONCE = 100
REFUSAL_EVERY_S = 60.0
CREDENTIALS_MAX = 10_000
OBJECT_MAX = 128  # the path of a refused request may contain anything


class _Allowance(msgspec.Struct):
    """How many more refusals may have an entry, at the time `at`."""

    left: float
    at: float


class AuditLog:
    """Writes the API's entries to the audit log."""

    def __init__(self, audit: SqlAudit, clock: Clock) -> None:
        self._audit, self._clock = audit, clock
        self._allowances: dict[str, _Allowance] = {}

    async def executed(self, context: AnyContext, response: Response, code: str | None) -> None:
        """Store the entry of a request whose execution started. Raises `StoreUnavailable`."""
        context.is_executed = True
        if context.action is not None:
            await self._append(context, response, code)

    async def refused(self, context: AnyContext, response: Response, code: str) -> None:
        """Store the entry of a request that was refused before its execution, within the limit.

        Nothing was changed, so the refusal is valid even if the store does not accept the entry.
        """
        if context.action is None or context.is_executed:
            return
        if not self._may_append(context.caller.credential):
            return
        with contextlib.suppress(StoreUnavailable):
            await self._append(context, response, code)

    async def _append(self, context: AnyContext, response: Response, code: str | None) -> None:
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


def _tenant_of(context: AnyContext, code: str | None) -> str:
    """The tenant whose log gets the entry: the tenant that an operator has changed and that the
    path names, or else that of the request.
    """
    named = context.parameters.get("tenant")
    is_changed = code is None and context.caller.scope.includes(Scope.OPERATOR)
    return named if named is not None and is_changed else context.tenant_id


def _name_of(context: AnyContext, object_id: str | None) -> str | None:
    """The name of the tenant's function. None for other tenants' functions, whose names stay
    secret.
    """
    entry = None if object_id is None else context.services.catalog.known(object_id)
    is_own = entry is not None and entry.function.tenant_id == context.tenant_id
    return entry.function.name if entry is not None and is_own else None
