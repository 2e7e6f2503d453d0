"""Canaries: rolls back a failing version that an alias gives a part of its invocations.

Each node judges by the invocations that it ran. The first node that finds a version beyond its rule
rolls it back: it removes the version from the alias in the store, and so for every node and after a
restart. The alias keeps the reason.
"""

import asyncio
from functools import partial

import msgspec
import structlog

from quiltfn.base.ids import new_id
from quiltfn.base.store_retry import until_stored
from quiltfn.functions.aliases import Aliases
from quiltfn.model.alias import Alias
from quiltfn.model.audit import AuditEntry
from quiltfn.model.canary import CanaryCounters, RollbackRule, verdict
from quiltfn.model.errors import StoreUnavailable
from quiltfn.model.invocation import Invocation, Status
from quiltfn.ports import Clock
from quiltfn.store.tenants.audit import SqlAudit

# Statuses that are not the version's fault.
NOT_ITS_OWN = (Status.CANCELLED, Status.INTERRUPTED)
ACTION, ITSELF = "alias.roll_back", "canary"

_log = structlog.get_logger("quiltfn.calls.canaries")


class _Watched(msgspec.Struct):
    """An alias as it was set, the judged version, and the counts of that version's invocations."""

    alias: Alias
    version: int
    rule: RollbackRule
    counters: CanaryCounters = msgspec.field(default_factory=CanaryCounters)
    is_over: bool = False


class Canaries:
    """Watches the invocations of functions that have an alias with a rollback rule."""

    def __init__(self, aliases: Aliases, audit: SqlAudit, clock: Clock) -> None:
        self._aliases, self._audit, self._clock = aliases, audit, clock
        self._watched: dict[str, list[_Watched]] = {}
        self._failed: list[tuple[str, _Watched, str]] = []
        self._changed = asyncio.Event()

    def alias_changed(self, function_id: str) -> None:
        """Applies a change of a function's aliases or of their rules."""
        before = {one.alias: one for one in self._watched.pop(function_id, [])}
        watched = []
        for alias in self._aliases.of(function_id):
            if alias.also is not None and alias.rollback_on is not None:
                new = _Watched(alias, alias.also.version, alias.rollback_on)
                watched.append(before.get(alias, new))
        if watched:
            self._watched[function_id] = watched

    def call_ended(self, record: Invocation) -> None:
        """Counts the end of an attempt if its version is watched."""
        for watched in self._watched.get(record.function_id, ()):
            if watched.is_over or record.version != watched.version or record.status in NOT_ITS_OWN:
                continue
            if self._clock.unix() > watched.alias.updated_at + watched.rule.within_s:
                watched.is_over = True
                continue
            watched.counters.add(watched.rule, record.duration_ms, failed=record.is_error)
            why = verdict(watched.rule, watched.counters)
            if why is not None:
                watched.is_over = True
                self._failed.append((record.function_id, watched, why))
                self._changed.set()

    async def run(self) -> None:
        """Rolls back failed versions, until it is cancelled."""
        while True:
            await self._changed.wait()
            self._changed.clear()
            while self._failed:
                take_back = partial(self._take_back, *self._failed[0])
                await until_stored(take_back, _not_yet)
                self._failed.pop(0)

    async def _take_back(self, function_id: str, watched: _Watched, why: str) -> None:
        name, why = watched.alias.name, f"version {watched.version}: {why}"
        function = await self._aliases.roll_back(function_id, watched.alias, why)
        if function is None:
            return  # the alias was changed meanwhile, or another node has rolled it back
        _log.warning(f"alias {name} was rolled back: {why}", function=function_id)
        entry = AuditEntry(
            id=new_id(),
            at=int(self._clock.timestamp()),
            tenant_id=function.tenant_id,
            credential=ITSELF,
            action=ACTION,
            object_id=function_id,
            status=200,
            error_code=None,
            address="",
            request_id="",
            note=f"{name}: {why}",
            object_name=function.name,
        )
        await until_stored(lambda: self._audit.append(entry))


def _not_yet(away: StoreUnavailable) -> None:
    _log.warning(f"a version could not be rolled back yet: {away}")
