"""The verbs over functions: create, update, deploy, pause, resume, roll back, delete.

A verb holds the function's lock while it decides and writes; what is written is on disk before the
pools hear of it, so that a crash leaves the old state or the new one, never half of each.
"""

import asyncio
import dataclasses
from collections.abc import AsyncIterator, Coroutine, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

import msgspec

from quiltfn.catalog import Catalog, Entry
from quiltfn.ids import new_id
from quiltfn.model.errors import (
    Conflict,
    NotFound,
    Outdated,
    PreconditionFailed,
    ShuttingDown,
    Unprocessable,
)
from quiltfn.model.function import (
    Function,
    FunctionEvent,
    FunctionState,
    NewFunction,
    check_targets,
)
from quiltfn.model.invocation import ExitKind
from quiltfn.model.pool import PoolLimits
from quiltfn.model.quota import UNBOUNDED
from quiltfn.model.version import HostLimits, Version, VersionSpec, check_number
from quiltfn.ports import Clock, FunctionCounters, Page, Pools, SandboxFailed, SandboxRefused, Store
from quiltfn.runtimes import Runtimes

DEPLOY_ANSWERS_WITHIN_S = 20.0
UPDATE_READY_WITHIN_S = 10.0
DELETE_GRACE_S = 5.0
SPEC_FIELDS = frozenset(VersionSpec.__struct_fields__)


@dataclass(frozen=True, slots=True, kw_only=True)
class NodeConfig:
    """Where this server runs: its node's name, what the machine allows, how its pools behave.
    `tenant_instances`: how many a tenant's functions may have together."""

    node_id: str
    host: HostLimits
    runtimes: Runtimes
    pools: PoolLimits
    tenant_instances: float = UNBOUNDED


class Lifecycle:
    """Changes functions, one verb at a time for each."""

    def __init__(
        self, catalog: Catalog, store: Store, pools: Pools, clock: Clock, node: NodeConfig
    ) -> None:
        self._catalog, self._store, self._pools = catalog, store, pools
        self._clock, self._node = clock, node
        self._background: set[asyncio.Task[None]] = set()

    async def restore(self) -> None:
        """At start: everything is as it was; what was being deployed is deployed again."""
        for stored in await self._store.load():
            entry = Entry(stored.function, stored.version, stored.counters)
            self._catalog.add(entry)
            if stored.function.state is FunctionState.ACTIVE:
                self._pools.open(stored.function.id, stored.version, self._limits(stored.function))
            elif stored.function.state is FunctionState.DEPLOYING:
                self._begin_deployment(entry)

    async def create(self, tenant_id: str, new: NewFunction, spec: VersionSpec) -> Entry:
        """A pending function with version 1. Raises `Unprocessable`, `Conflict`."""
        now = int(self._clock.unix())
        function = Function(
            id=new_id(),
            tenant_id=tenant_id,
            name=new.name,
            cluster_id=new.cluster_id,
            description=new.description,
            owner_node_id=self._node.node_id,
            state=FunctionState.PENDING,
            current_version=1,
            min_instances=new.min_instances,
            max_instances=new.max_instances,
            created_at=now,
            updated_at=now,
        )
        function.validate()
        self._check_quota(function.min_instances)
        spec = self._node.runtimes.pin(tenant_id, spec)
        spec.validate(self._node.host)
        version = self._version(function, 1, spec, now)
        entry = Entry(function, version, FunctionCounters())
        with self._catalog.room(tenant_id, spec):
            await self._store.create(function, version)
            self._catalog.add(entry)
        return entry

    async def update(
        self, entry: Entry, changes: Mapping[str, Any], expected: set[str] | None = None
    ) -> Entry:
        """A new version with `changes` (names and types already checked), serving at once.

        Raises `PreconditionFailed` where the function is none of the `expected` fingerprints.
        On an active function the new version stands before it takes over; one that cannot stand
        leaves the old one serving and says why in `error_message`.
        """
        async with changing(entry):
            if expected is not None and entry.fingerprint() not in expected:
                raise PreconditionFailed(
                    hint="GET it again and repeat the change on what it is now"
                )
            now = int(self._clock.unix())
            ours = {name: value for name, value in changes.items() if name in SPEC_FIELDS}
            rest = {name: value for name, value in changes.items() if name not in SPEC_FIELDS}
            spec = msgspec.structs.replace(entry.version.spec, **ours)
            spec = self._node.runtimes.pin(entry.function.tenant_id, spec)
            function = msgspec.structs.replace(
                entry.function, **rest, updated_at=now, error_message=None
            )
            function.validate()
            if "min_instances" in changes:
                self._check_quota(function.min_instances)
            spec.validate(self._node.host)
            with self._catalog.room(function.tenant_id, spec, entry.version.spec):
                newest = await self._store.newest_number(function.id)
                version = self._version(function, newest + 1, spec, now)
                await self._repoint(entry, function, version, is_new=True)
        return entry

    async def rollback(self, entry: Entry, number: int) -> Entry:
        """Points back to an existing version, without making one; forgets why an update failed.

        Raises `NotFound`.
        """
        check_number(number)
        async with changing(entry):
            version = await self._store.version(entry.function.id, number)
            if version is None:
                raise NotFound(f"the function has no version {number}")
            function = msgspec.structs.replace(
                entry.function, updated_at=int(self._clock.unix()), error_message=None
            )
            if number != entry.function.current_version:
                with self._catalog.room(function.tenant_id, version.spec, entry.version.spec):
                    await self._repoint(entry, function, version, is_new=False)
            elif function.state is FunctionState.ACTIVE and entry.function.error_message:
                self._catalog.replace(entry, await self._save(entry, function))
        return entry

    async def set_scaling(self, entry: Entry, min_instances: int, max_instances: int) -> Entry:
        """New scaling targets, at once and without a version. Raises `Unprocessable`."""
        async with changing(entry):
            check_targets(min_instances, max_instances)
            self._check_quota(min_instances)
            function = msgspec.structs.replace(
                entry.function,
                min_instances=min_instances,
                max_instances=max_instances,
                updated_at=int(self._clock.unix()),
            )
            self._catalog.replace(entry, await self._save(entry, function))
            self._pools.set_scaling(function.id, self._limits(function))
        return entry

    async def deploy(self, entry: Entry) -> Entry:
        """Makes `max(1, min_instances)` instances ready; then active, error, or deploying still."""
        async with changing(entry):
            function = entry.function
            if function.state is FunctionState.ACTIVE:
                await self._top_up(entry)
                return entry
            if function.state is not FunctionState.DEPLOYING:
                await self._move(entry, FunctionEvent.DEPLOY)
                self._begin_deployment(entry)
            elif entry.deployment is None or entry.deployment.done():
                self._begin_deployment(entry)  # the last attempt could not write its outcome
        if entry.deployment is not None:
            await asyncio.wait([entry.deployment], timeout=DEPLOY_ANSWERS_WITHIN_S)
        return entry

    async def pause(self, entry: Entry) -> None:
        """Refuses new and waiting calls, lets running ones end. Raises `Conflict`."""
        async with stopping(entry):
            state = entry.function.state
            if state in (FunctionState.PENDING, FunctionState.ERROR):
                raise Conflict(
                    f"a function that is {state} cannot be paused", details=_state(entry)
                )
            if state is not FunctionState.PAUSED:
                await self._move(entry, FunctionEvent.PAUSE)
                self._pools.close(entry.function.id, "paused")

    async def resume(self, entry: Entry) -> Entry:
        """Deploys a paused function again. Raises `Conflict`."""
        state = entry.function.state
        if state in (FunctionState.PENDING, FunctionState.ERROR):
            raise Conflict(f"a function that is {state} cannot be resumed", details=_state(entry))
        if state is FunctionState.ACTIVE:
            return entry
        return await self.deploy(entry)

    async def delete(self, entry: Entry) -> None:
        """Gone at once for every caller; running calls have a moment and end `cancelled`."""
        async with stopping(entry):
            await self._store.delete(entry.function.id)
            self._catalog.remove(entry)
            entry.function = entry.function.after(FunctionEvent.DELETE, int(self._clock.unix()))
            self._pools.close(entry.function.id, "deleted")
        self._in_background(self._end_deleted(entry.function.id))

    async def versions(
        self, entry: Entry, after: str | None = None, limit: int = 1000
    ) -> Page[Version]:
        """Some versions, newest first, behind the one with the id `after`."""
        return await self._store.versions(entry.function.id, after, limit)

    # How -------------------------------------------------------------------------------------

    async def _repoint(
        self, entry: Entry, function: Function, version: Version, *, is_new: bool
    ) -> None:
        """Makes `version` the current one, on an active function only once it stands."""
        stored = version if is_new else None
        target = msgspec.structs.replace(function, current_version=version.number)
        serves = version
        try:
            if function.state is FunctionState.ACTIVE:
                reason = await self._why_not(entry, target, version, UPDATE_READY_WITHIN_S)
                if reason is not None:
                    message = f"version {version.number} cannot serve: {reason}"
                    target = msgspec.structs.replace(function, error_message=message)
                    serves = entry.version
            saved = await self._save(entry, target, stored)
            self._catalog.replace(entry, saved, serves)
        finally:  # where that was not stored, the pools too go on with what was
            self._pools.set_scaling(entry.function.id, self._limits(entry.function))
            if entry.function.state is FunctionState.ACTIVE:
                self._pools.promote(entry.function.id, entry.version)

    async def _why_not(
        self, entry: Entry, function: Function, version: Version, within_s: float
    ) -> str | None:
        """None once `version` stands beside what serves; else why it does not."""
        in_vain = "the function was paused or deleted meanwhile"
        if entry.stop_requests:
            return in_vain
        entry.preparing = preparing = asyncio.ensure_future(self._prepare(entry, function, version))
        try:
            async with asyncio.timeout(within_s):
                await preparing
        except (SandboxRefused, SandboxFailed, TimeoutError) as error:
            return str(error) or f"no instance stood within {within_s:.0f} s"
        except asyncio.CancelledError:
            own = asyncio.current_task()
            if own is None or own.cancelling() or not entry.stop_requests:
                raise
            return in_vain
        finally:
            entry.preparing = None
        return None

    async def _top_up(self, entry: Entry) -> None:
        """Deploy of a function that serves already: the same number of instances is made ready."""
        within = DEPLOY_ANSWERS_WITHIN_S
        error = await self._why_not(entry, entry.function, entry.version, within)
        if error != entry.function.error_message:
            function = msgspec.structs.replace(entry.function, error_message=error)
            self._catalog.replace(entry, await self._save(entry, function))
        self._pools.promote(entry.function.id, entry.version)

    async def _prepare(self, entry: Entry, function: Function, version: Version) -> None:
        count = max(1, function.min_instances)
        await self._pools.prepare(entry.function.id, version, self._limits(function), count)

    def _begin_deployment(self, entry: Entry) -> None:
        entry.deployment = self._in_background(self._deployment(entry))

    async def _deployment(self, entry: Entry) -> None:
        """Until the version that is current by then stands, or one cannot."""
        while self._is_deploying(entry):
            version = entry.version
            error: str | None = None
            try:
                await self._prepare(entry, entry.function, version)
            except ShuttingDown:
                return  # it stays deploying, and the next start deploys it again
            except (SandboxRefused, SandboxFailed) as refused:
                error = str(refused)
            async with entry.lock:
                if not self._is_deploying(entry):
                    return  # the pool was closed by whatever came between
                if entry.version.digest != version.digest:
                    continue  # updated meanwhile
                if error is not None:
                    await self._move(entry, FunctionEvent.FAILED, error)
                    self._pools.close(entry.function.id, "error")
                else:
                    await self._move(entry, FunctionEvent.READY)
                    self._pools.promote(entry.function.id, entry.version)

    def _is_deploying(self, entry: Entry) -> bool:
        """Not paused or deleted meanwhile, nor paused and resumed: then that is another's task."""
        mine = entry.deployment is asyncio.current_task()
        return mine and entry.function.state is FunctionState.DEPLOYING

    async def _move(self, entry: Entry, event: FunctionEvent, error: str | None = None) -> None:
        function = entry.function.after(event, int(self._clock.unix()), error)
        self._catalog.replace(entry, await self._save(entry, function))

    async def _save(
        self, entry: Entry, function: Function, version: Version | None = None
    ) -> Function:
        """The function as it was stored. Raises `Outdated` where what was to be changed is not the
        newest: the entry is the newest then, so that the caller may repeat it.
        """
        try:
            return await self._store.save(function, version)
        except Outdated:
            function_id = entry.function.id
            self._catalog.follow_change(function_id, await self._store.find(function_id))
            raise

    async def _end_deleted(self, function_id: str) -> None:
        await asyncio.sleep(DELETE_GRACE_S)
        await self._pools.end_running(function_id, ExitKind.CANCELLED, "the function was deleted")
        self._pools.forget(function_id)

    def _version(self, function: Function, number: int, spec: VersionSpec, now: int) -> Version:
        return Version(
            id=new_id(),
            function_id=function.id,
            number=number,
            spec=spec,
            digest=spec.digest(),
            description=function.description,
            created_at=now,
        )

    def _limits(self, function: Function) -> PoolLimits:
        return dataclasses.replace(
            self._node.pools,
            min_instances=function.min_instances,
            max_instances=function.max_instances,
            tenant_id=function.tenant_id,
        )

    def _check_quota(self, min_instances: int) -> None:
        """Raises `Unprocessable` for more than a tenant may have at all."""
        most = self._node.tenant_instances
        if min_instances > most:
            expected = f"at most {most:g}, the quota of instances of a tenant"
            raise Unprocessable.field("min_instances", expected, min_instances, 0)

    def _in_background(self, work: Coroutine[None, None, None]) -> "asyncio.Task[None]":
        task: asyncio.Task[None] = asyncio.ensure_future(work)
        self._background.add(task)
        task.add_done_callback(self._background.discard)
        return task


@asynccontextmanager
async def changing(entry: Entry) -> AsyncIterator[None]:
    """The function's lock, and the certainty that it was not deleted while waiting for it."""
    async with entry.lock:
        if entry.function.state is FunctionState.DELETED:
            raise NotFound("there is no such function")
        yield


@asynccontextmanager
async def stopping(entry: Entry) -> AsyncIterator[None]:
    """As `changing`, for who does not want the function to serve any longer: a verb that waits for
    instances of it stops waiting.
    """
    entry.stop_requests += 1
    try:
        if entry.preparing is not None:
            entry.preparing.cancel()
        async with changing(entry):
            yield
    finally:
        entry.stop_requests -= 1


def _state(entry: Entry) -> dict[str, str]:
    return {"state": entry.function.state}
