"""The operations on functions: create, update, deploy, pause, resume, roll back, delete.

Each operation holds the function's lock while it decides and writes. A change is committed first to
the store, then in one step to catalog and pool, so that a crash leaves the old state or the new
one. Before that, one `async with` block prepares the version's instances; leaving it without a
commit undoes that.
"""

import asyncio
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager
from functools import partial
from typing import Any

import msgspec
import structlog

from quiltfn.base.ids import new_id
from quiltfn.base.store_retry import until_stored
from quiltfn.base.task_group import TaskGroup
from quiltfn.base.uninterrupted import uninterrupted
from quiltfn.functions.aliases import Aliases
from quiltfn.functions.catalog import Catalog, Entry
from quiltfn.functions.runtimes import Runtimes
from quiltfn.model.actions import Closed
from quiltfn.model.alias import Alias
from quiltfn.model.errors import (
    Conflict,
    NotFound,
    Outdated,
    PreconditionFailed,
    ShuttingDown,
    StoreUnavailable,
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
from quiltfn.model.retention import VersionLimits
from quiltfn.model.version import HostLimits, Version, VersionSpec
from quiltfn.ports import (
    Change,
    Clock,
    FunctionCounters,
    NotPrepared,
    Page,
    Pools,
    Preparation,
    StoredFunction,
)
from quiltfn.store.calls.journal import SpoolJournal
from quiltfn.store.functions.functions import SqlStore

DEPLOY_ANSWERS_WITHIN_S = 20.0
UPDATE_READY_WITHIN_S = 20.0
DELETE_GRACE_S = 5.0
FOLLOWED_AT_ONCE = 50
OPEN_STATES = (FunctionState.ACTIVE, FunctionState.DEPLOYING)
STOPPED = "the function was paused or deleted meanwhile"
SPEC_FIELDS = frozenset(VersionSpec.__struct_fields__)

MoveAlias = Callable[[Alias], Alias]
_log = structlog.get_logger("quiltfn.functions.lifecycle")


class NodeConfig(msgspec.Struct, frozen=True, kw_only=True):
    """Facts about this node that the operations need: its id, the limits of a function on this
    machine, the limits of its pools and of stored `versions`. `tenant_instances`: the maximum
    number of instances of a tenant. `owns`: returns whether this node keeps the `min_instances` of
    a function, and finishes its deployment. `may_run`: returns whether a tenant's instances may
    run; if not, the tenant has no open pool.
    """

    node_id: str
    host: HostLimits
    runtimes: Runtimes
    pools: PoolLimits
    may_run: Callable[[str], bool]
    tenant_instances: float = UNBOUNDED
    versions: VersionLimits = VersionLimits()
    owns: Callable[[Function], bool] = lambda _: True


class Activity(msgspec.Struct, eq=False):
    """The operations on one function.

    `lock`: one operation at a time. `deployment`: the deploy in progress. `preparing`: the time
    limit that the operation with the lock has set for a version's instances to become ready.
    `stop_requests`: the number of requests that wait for the lock to pause or delete the function;
    if there are any, waiting for its instances is pointless.
    """

    lock: asyncio.Lock = msgspec.field(default_factory=asyncio.Lock)
    deployment: "asyncio.Task[None] | None" = None
    preparing: asyncio.Timeout | None = None
    stop_requests: int = 0


class Lifecycle:
    """Changes functions, each by one operation at a time.

    Every method accepts an outdated entry, and uses the function's state once the method has the
    lock. It raises `NotFound` if the function was deleted, and returns the function after the
    operation. Changes of other nodes are applied first.
    """

    def __init__(
        self,
        catalog: Catalog,
        store: SqlStore,
        aliases: Aliases,
        pools: Pools,
        clock: Clock,
        node: NodeConfig,
    ) -> None:
        self._catalog, self._store, self._pools = catalog, store, pools
        self._aliases, self._versions = aliases, aliases.versions
        self._clock, self._node, self.others = clock, node, aliases.others
        self._activities: dict[str, Activity] = {}
        self._background = TaskGroup(_log_failure)

    async def restore(self) -> None:
        """At start: restore all functions, and restart the deployments of this node."""
        for stored in await self._store.load():
            entry = Entry(stored.function, stored.version, stored.counters)
            self._catalog.add(entry)
            if stored.function.state is FunctionState.ACTIVE:
                self._open(stored.function, stored.version)
            else:
                self._resume_deployment(stored.function)

    def suspend(self, function_id: str) -> None:
        """End the instances of a function whose tenant may no longer run. Its state stays, and
        `reopen` restarts a deployment.
        """
        entry = self._catalog.known(function_id)
        if entry is None or entry.function.state not in OPEN_STATES:
            return
        if (activity := self._activities.get(function_id)) is not None:
            activity.deployment = None  # the task ends by itself
        self._pools.close(function_id, Closed.DISABLED)

    def reopen(self, function_id: str) -> None:
        """Open the pool of a function whose tenant may run again, or continue its deployment."""
        entry = self._catalog.known(function_id)
        if entry is None:
            return
        if entry.function.state is FunctionState.ACTIVE:
            self._open(entry.function, entry.version)
        else:
            self._resume_deployment(entry.function)

    def _may_run(self, function: Function) -> bool:
        return self._node.may_run(function.tenant_id)

    def _open(self, function: Function, version: Version) -> None:
        if self._may_run(function):
            self._pools.open(function.id, version, self._limits(function))

    def _promote(self, preparation: Preparation, function: Function, version: Version) -> None:
        """Promote the version. If the tenant was disabled and enabled again during the commit, the
        preparation is over and `reopen` used the previous state, so open the pool again.
        """
        if not preparation.promote(version):
            self._open(function, version)

    async def aclose(self) -> None:
        """End background tasks. Stored deployments in progress resume at the next start."""
        await self._background.aclose()

    async def create(self, tenant_id: str, new: NewFunction, spec: VersionSpec) -> Entry:
        """Create a pending function with version 1. Raises `Unprocessable`, `Conflict`."""
        await self.others.catch_up()
        now = int(self._clock.unix())
        function = Function(
            **msgspec.structs.asdict(new),
            id=new_id(),
            tenant_id=tenant_id,
            owner_node_id=self._node.node_id,
            state=FunctionState.PENDING,
            current_version=1,
            created_at=now,
            updated_at=now,
        )
        check_targets(function.min_instances, function.max_instances)
        self._check_quota(function.min_instances)
        spec = self._node.runtimes.with_snapshot(tenant_id, spec)
        spec.validate(self._node.host)
        version = self._version(function, 1, spec, now)
        entry = Entry(function, version, FunctionCounters())

        async def commit() -> Entry:
            await self._store.create(function, version)
            self._catalog.add(entry)
            return entry

        with self._catalog.reserve(tenant_id, spec):
            return await uninterrupted(commit())

    async def update(
        self,
        entry: Entry,
        changes: Mapping[str, Any],
        expected: set[str] | None = None,
        *,
        moves_default: bool | None = None,
    ) -> Entry:
        """Create a version with `changes` (names and types already checked) and make it current at
        once. The default alias moves to it, with two exceptions: `moves_default` is False; or it is
        None, the code is unchanged, and the alias sends invocations to other versions than the
        previous one.

        Raises `PreconditionFailed` if the function matches none of the `expected` fingerprints. On
        an active function the new version's instances are ready before it takes over; if that
        fails, the old version stays current and `error_message` gives the reason.
        """
        async with self._changing(entry) as current:
            if expected is not None and current.fingerprint() not in expected:
                raise PreconditionFailed(
                    hint="GET it again, and repeat the change on its current state"
                )
            now = int(self._clock.unix())
            ours = {name: value for name, value in changes.items() if name in SPEC_FIELDS}
            rest = {name: value for name, value in changes.items() if name not in SPEC_FIELDS}
            spec = msgspec.structs.replace(current.version.spec, **ours)
            spec = self._node.runtimes.with_snapshot(current.function.tenant_id, spec)
            function = msgspec.structs.replace(
                current.function.failing(None), **rest, updated_at=now
            )
            check_targets(function.min_instances, function.max_instances)
            if "min_instances" in changes:
                self._check_quota(function.min_instances)
            spec.validate(self._node.host)
            with self._catalog.reserve(function.tenant_id, spec, current.version.spec):
                newest = await self._store.newest_number(function.id)
                version = self._version(function, newest + 1, spec, now)
                is_same = moves_default is None and spec.code == current.version.spec.code
                same_code = current.function.current_version if is_same else None
                move = partial(Alias.after_update, version=version.number, same_code=same_code)
                return await self._point_to(
                    function, version, None if moves_default is False else move, is_new=True
                )

    async def rollback(self, entry: Entry, number: int, *, moves_default: bool = True) -> Entry:
        """Make an existing version current, without creating one; clear the `error_message` of a
        failed update. The version that was current until now is removed from aliases, and the
        default alias moves to the restored version, unless `moves_default` is False. Raises
        `NotFound`.
        """
        async with self._changing(entry) as current:
            version = await self.version(current, number)
            function = msgspec.structs.replace(
                current.function.failing(None), updated_at=int(self._clock.unix())
            )
            before = current.function.current_version
            move = partial(
                Alias.after_rollback, before=before, version=number, moves_default=moves_default
            )
            if number != before:
                with self._catalog.reserve(function.tenant_id, version.spec, current.version.spec):
                    return await self._point_to(function, version, move, is_new=False)
            default = self._aliases.defaults.get(function.id)
            is_elsewhere = moves_default and default is not None and default.versions != (number,)
            has_failed = function.state is FunctionState.ACTIVE and current.function.error_message
            if is_elsewhere or has_failed:
                return await self._commit(function, move=move)
            return current

    async def set_scaling(self, entry: Entry, min_instances: int, max_instances: int) -> Entry:
        """Apply new scaling targets at once, without a version. Raises `Unprocessable`."""
        async with self._changing(entry) as current:
            check_targets(min_instances, max_instances)
            self._check_quota(min_instances)
            function = msgspec.structs.replace(
                current.function,
                min_instances=min_instances,
                max_instances=max_instances,
                updated_at=int(self._clock.unix()),
            )
            return await self._commit(function, self._scale)

    async def own(self, function_id: str) -> Entry:
        """Make this node keep the function's `min_instances` and continue its deployment. Raises
        `NotFound`, and `Outdated` if another node has changed the function meanwhile.
        """
        async with self._changing(self._catalog.get(function_id)) as current:
            entry = await self._owned(current.function)
            self._resume_deployment(entry.function)
            return entry

    async def _owned(self, function: Function) -> Entry:
        owned = msgspec.structs.replace(function, owner_node_id=self._node.node_id)
        return await self._commit(owned, self._scale)

    async def deploy(self, entry: Entry) -> Entry:
        """Make `max(1, min_instances)` instances ready; the function is then active, in error, or
        still deploying.
        """
        function_id = entry.function.id
        async with self._changing(entry) as current:
            activity = self._activities[function_id]
            if current.function.state is FunctionState.ACTIVE:
                return await self._top_up(current)
            if current.function.state is not FunctionState.DEPLOYING:
                await self._move_here(current, FunctionEvent.DEPLOY)
                self._begin_deployment(function_id)
            elif activity.deployment is None or activity.deployment.done():
                # Another node deploys the function, or has done so.
                self._begin_deployment(function_id)
        if activity.deployment is not None:
            await asyncio.wait([activity.deployment], timeout=DEPLOY_ANSWERS_WITHIN_S)
        return self._catalog.get(function_id)

    async def pause(self, entry: Entry) -> Entry:
        """Refuse new and waiting synchronous invocations; let running ones end. Raises
        `Conflict`.
        """
        async with self._stopping(entry) as current:
            state = current.function.state
            if state in (FunctionState.PENDING, FunctionState.ERROR):
                raise Conflict(
                    f"a function that is {state} cannot be paused", details=_state(current)
                )
            if state is FunctionState.PAUSED:
                return current
            return await self._move(current, FunctionEvent.PAUSE, self._close)

    async def resume(self, entry: Entry) -> Entry:
        """Deploy a paused function again. Raises `Conflict`."""
        await self.others.catch_up()
        entry = self._catalog.get(entry.function.id)
        state = entry.function.state
        if state in (FunctionState.PENDING, FunctionState.ERROR):
            sentence = f"a function that is {state} cannot be resumed"
            raise Conflict(sentence, details=_state(entry), hint="deploy it")
        if state is FunctionState.ACTIVE:
            return entry
        return await self.deploy(entry)

    async def delete(self, entry: Entry) -> None:
        """Delete the function now; cancel running invocations after a grace period."""
        function_id = entry.function.id

        async def commit() -> None:
            await self._store.delete(function_id)
            self._catalog.remove(entry)
            self._versions.forget(function_id)
            self._end(function_id)

        async with self._stopping(entry):
            await uninterrupted(commit())

    async def versions(
        self, entry: Entry, after: str | None = None, limit: int = 1000
    ) -> Page[Version]:
        """A page of versions, newest first, that starts after the one with the id `after`."""
        return await self._store.versions(entry.function.id, after, limit)

    async def version(self, entry: Entry, number: int) -> Version:
        """One version. Raises `NotFound`."""
        return await self._versions.of(entry, number)

    # One operation at a time -----------------------------------------------------------------

    @asynccontextmanager
    async def _changing(self, entry: Entry) -> AsyncIterator[Entry]:
        """Holds the function's lock; yields its present entry. Raises `NotFound` if deleted."""
        function_id = self._catalog.get(entry.function.id).function.id
        async with self._activities.setdefault(function_id, Activity()).lock:
            await self.others.catch_up()
            yield self._catalog.get(function_id)

    @asynccontextmanager
    async def _stopping(self, entry: Entry) -> AsyncIterator[Entry]:
        """Like `_changing`, for an operation that stops the function: makes another operation that
        waits for its instances give up.
        """
        function_id = self._catalog.get(entry.function.id).function.id
        activity = self._activities.setdefault(function_id, Activity())
        activity.stop_requests += 1
        try:
            _give_up(activity)
            async with self._changing(entry) as now:
                yield now
        finally:
            activity.stop_requests -= 1

    # Prepare, commit -------------------------------------------------------------------------

    @asynccontextmanager
    async def _prepared(
        self, function: Function, version: Version, within_s: float
    ) -> AsyncIterator[Preparation]:
        """`Pools.prepared` with a time limit, for an operation that holds the function's lock.
        Entering raises `NotPrepared`, also if a request waits to pause or delete the function.
        """
        activity = self._activities.get(function.id)
        if activity is None or activity.stop_requests:
            raise NotPrepared(STOPPED)
        async with AsyncExitStack() as stack:
            try:
                async with asyncio.timeout(within_s) as activity.preparing:
                    preparation = await stack.enter_async_context(self._ready(function, version))
            except TimeoutError:
                if activity.stop_requests:
                    raise NotPrepared(STOPPED) from None
                raise _Late(f"no instance was ready within {within_s:.0f} s") from None
            finally:
                activity.preparing = None
            yield preparation

    def _ready(
        self, function: Function, version: Version
    ) -> AbstractAsyncContextManager[Preparation]:
        count = max(1, function.min_instances)
        return self._pools.prepared(function.id, version, self._limits(function), count)

    async def _commit(
        self,
        function: Function,
        then: Callable[[Function], None] = lambda _: None,
        *,
        version: Version | None = None,
        new_version: Version | None = None,
        move: MoveAlias | None = None,
    ) -> Entry:
        """Store the function, its new version, if any, and the aliases as `move` changes them, and
        only then change the catalog and, through `then`, the pool. `version`: the version that
        becomes current. Raises the errors of the store; nothing has changed then. `Outdated` means
        that another server changed the function meanwhile; catalog and pool then have that change,
        so the caller may repeat the operation.
        """

        async def commit() -> Entry:
            try:
                saved = await self._save(function, new_version, move)
                if new_version is not None:
                    self._versions.forget(function.id)
            except Outdated:
                await self._follow([function.id])
                raise
            entry = self._catalog.replace(saved, version)
            # Otherwise the pool already has a newer entry.
            if entry.function.revision == saved.revision:
                then(saved)
            return entry

        return await uninterrupted(commit())

    async def _save(
        self, function: Function, new_version: Version | None, move: MoveAlias | None
    ) -> Function:
        if move is None:
            return await self._store.save(function, new_version, limits=self._node.versions)
        moved: dict[str, Alias] = {}

        def moving(alias: Alias) -> Alias:
            after = move(alias)
            if after == alias:
                return alias
            moved[alias.name] = msgspec.structs.replace(
                after, revision=alias.revision + 1, updated_at=function.updated_at
            )
            return moved[alias.name]

        async with self._aliases.changing:
            saved = await self._store.save(function, new_version, moving, self._node.versions)
            self._aliases.moved(function.id, moved)
        return saved

    async def _move(
        self,
        entry: Entry,
        event: FunctionEvent,
        then: Callable[[Function], None] = lambda _: None,
        error: NotPrepared | None = None,
    ) -> Entry:
        function = entry.function.after(event, int(self._clock.unix()))
        return await self._commit(_failing(function, error), then)

    async def _move_here(self, entry: Entry, event: FunctionEvent) -> Entry:
        """Like `_move`, and make this node the owner of the function."""
        moved = entry.function.after(event, int(self._clock.unix()))
        if not self._node.owns(moved):
            moved = msgspec.structs.replace(moved, owner_node_id=self._node.node_id)
        return await self._commit(moved, self._scale)

    def _scale(self, function: Function) -> None:
        self._pools.set_scaling(function.id, self._limits(function))

    def _close(self, function: Function) -> None:
        self._pools.close(function.id, Closed(function.state))

    async def _point_to(
        self, function: Function, version: Version, move: MoveAlias | None, *, is_new: bool
    ) -> Entry:
        """Make `version` the current one, on an active function once its instances are ready. If
        they can't become ready, the old one stays current, and `error_message` gives the reason.
        Exception: if both have the same content, the version becomes current although its instances
        are late, since running invocations can occupy all instances.
        """
        is_known = self._catalog.get(function.id).version.digest == version.digest
        new_version = version if is_new else None
        target = msgspec.structs.replace(function, current_version=version.number)
        commit = partial(self._commit, version=version, new_version=new_version, move=move)
        if function.state is FunctionState.ACTIVE and self._may_run(function):
            target = await self._with_minimum_here(target)
            try:
                async with self._prepared(target, version, UPDATE_READY_WITHIN_S) as preparation:
                    return await commit(
                        target, lambda saved: self._promote(preparation, saved, version)
                    )
            except NotPrepared as error:
                why = error
            is_refused = not (is_known and isinstance(why, _Late))
            # A late version with known content is served anyway. If the tenant was disabled
            # meanwhile, the version becomes current without instances.
            if is_refused and self._may_run(function):
                sentence = f"version {version.number} cannot serve: {why}"
                failed = msgspec.structs.replace(
                    target.failing(sentence, why.written, version.number),
                    current_version=function.current_version,
                )
                return await self._commit(failed, self._scale, new_version=new_version)

        def serve(saved: Function) -> None:
            self._scale(saved)
            if saved.state is FunctionState.ACTIVE:  # the tenant may have been enabled again
                self._open(saved, version)

        return await commit(target, serve)

    async def _top_up(self, entry: Entry) -> Entry:
        """Deploy a function that is already active: make as many instances ready as any deploy."""
        if not self._may_run(entry.function):
            return entry
        error: NotPrepared | None = None
        function = await self._with_minimum_here(entry.function)
        try:
            async with self._prepared(
                function, entry.version, DEPLOY_ANSWERS_WITHIN_S
            ) as preparation:
                preparation.promote()
        except NotPrepared as refused:
            if not self._may_run(function):
                return self._catalog.get(function.id)
            error = refused
        after = _failing(function, error)
        if after.error_message == function.error_message:
            return self._catalog.get(function.id)
        return await self._commit(after)

    async def _with_minimum_here(self, function: Function) -> Function:
        """`function`, which is stored next, with this node as its owner if it has `min_instances`.
        Another owner would refill each free slot, and no slot would be left for this node.
        """
        now = self._catalog.get(function.id).function
        keeps_some = now.min_instances > 0 or function.min_instances > 0
        if self._node.owns(now) or not keeps_some:
            return function
        kept = (await self._owned(now)).function
        return msgspec.structs.replace(
            function, owner_node_id=kept.owner_node_id, revision=kept.revision
        )

    def _resume_deployment(self, function: Function) -> None:
        """Start the function's deployment if this node must finish it and no task does so yet."""
        if function.state is not FunctionState.DEPLOYING or not self._node.owns(function):
            return
        activity = self._activities.get(function.id)
        if activity is None or activity.deployment is None or activity.deployment.done():
            self._begin_deployment(function.id)

    def _begin_deployment(self, function_id: str) -> None:
        """Deploy the function if its tenant may run; else it stays deploying until `reopen`."""
        if not self._may_run(self._catalog.get(function_id).function):
            return
        activity = self._activities.setdefault(function_id, Activity())
        activity.deployment = self._background.spawn(self._deployment(function_id, activity))

    async def _deployment(self, function_id: str, activity: Activity) -> None:
        """Deploy until the current version is ready, or has failed."""
        while (entry := self._being_deployed(function_id, activity)) is not None:
            try:
                async with self._ready(entry.function, entry.version) as preparation:
                    if await self._conclude(
                        entry,
                        activity,
                        FunctionEvent.READY,
                        partial(self._promote, preparation),
                    ):
                        return
            except ShuttingDown:
                return  # the function stays deploying, and the next start deploys it again
            except NotPrepared as error:
                if await self._conclude(
                    entry,
                    activity,
                    FunctionEvent.FAILED,
                    lambda function, _: self._close(function),
                    error,
                ):
                    return

    async def _conclude(
        self,
        entry: Entry,
        activity: Activity,
        event: FunctionEvent,
        then: Callable[[Function, Version], None],
        error: NotPrepared | None = None,
    ) -> bool:
        """Commit the outcome of preparing the version of `entry`, as soon as the store is
        available; return whether the deployment is over.
        """
        conclude = partial(self._conclude_once, entry, activity, event, then, error)
        return await until_stored(conclude, _not_yet)

    async def _conclude_once(
        self,
        entry: Entry,
        activity: Activity,
        event: FunctionEvent,
        then: Callable[[Function, Version], None],
        error: NotPrepared | None,
    ) -> bool:
        async with activity.lock:
            now = self._being_deployed(entry.function.id, activity)
            if now is None:
                return True
            version = now.version
            if version.digest != entry.version.digest:
                return False  # the function was updated meanwhile
            try:
                await self._move(now, event, lambda function: then(function, version), error)
            except Outdated:
                return False  # another node changed the function meanwhile
            return True

    def _being_deployed(self, function_id: str, activity: Activity) -> Entry | None:
        """The function, if it is still this task's to deploy. None if it was paused, suspended or
        deleted meanwhile, also if it was resumed: another task then deploys it.
        """
        if activity.deployment is not asyncio.current_task():
            return None
        try:
            entry = self._catalog.get(function_id)
        except NotFound:
            return None
        return entry if entry.function.state is FunctionState.DEPLOYING else None

    # Following other nodes -------------------------------------------------------------------

    async def follow_changes(self, changes: Sequence[Change] | None) -> None:
        """Apply other nodes' changes to functions; None: reload all functions. Pools open, switch
        versions, close and end as after an operation of this node. This node's own changes are
        already applied.
        """
        if changes is None:
            return await self._follow_all()
        ids = list(dict.fromkeys(one.object_id for one in changes))
        for start in range(0, len(ids), FOLLOWED_AT_ONCE):
            await self._follow(ids[start : start + FOLLOWED_AT_ONCE])
        return None

    async def follow_counters(self, journal: SpoolJournal) -> None:
        """Apply the stored counters, which include the invocations of other nodes. `journal`: knows
        the invocations that this node has not stored yet.
        """
        before = journal.uncounted()
        stored = await self._store.counters()
        after = journal.uncounted()
        # `stored` may or may not include a commit that was made meanwhile.
        is_exact = before is not None and after is not None and before.commits == after.commits
        unstored = after.counters if after is not None and is_exact else None
        self._catalog.follow_counters(stored, unstored)

    async def _follow(self, ids: Sequence[str]) -> None:
        # A function that was removed here while the store responded stays removed.
        with self._catalog.removals() as removed:
            found = {one.function.id: one for one in await self._store.load(ids)}
            for function_id in ids:
                if function_id not in removed:
                    self._take_over(function_id, found.get(function_id))

    async def _follow_all(self) -> None:
        known = self._known()
        with self._catalog.removals() as removed:
            found = {one.function.id: one for one in await self._store.load()}
            for function_id in (known | found.keys()) - removed:
                self._take_over(function_id, found.get(function_id))
        # Functions that were created here while the store responded may be missing from its
        # response.
        await self._follow(sorted(self._known() - known - found.keys()))

    def _known(self) -> set[str]:
        return {entry.function.id for entry in self._catalog.all()}

    def _take_over(self, function_id: str, stored: StoredFunction | None) -> None:
        """Apply the stored function to catalog and pool, in one step, if it is newer."""
        if not self._catalog.follow_change(function_id, stored):
            return
        self._versions.forget(function_id)
        activity = self._activities.get(function_id)
        if activity is not None:
            # A waiting operation has used the function's previous state.
            _give_up(activity)
        if stored is None:
            return self._end(function_id)
        function = stored.function
        if activity is not None and function.state is not FunctionState.DEPLOYING:
            activity.deployment = None  # the task ends by itself
        if function.state is FunctionState.ACTIVE:
            return self._open(function, stored.version)
        self._scale(function)
        if function.state in (FunctionState.PAUSED, FunctionState.ERROR):
            self._close(function)
        # Needed if this node committed the deployment, but the store's response was lost.
        self._resume_deployment(function)
        return None

    def _end(self, function_id: str) -> None:
        """Remove everything that this node has of a deleted function."""
        self._pools.close(function_id, Closed.DELETED)
        self._activities.pop(function_id, None)
        self._background.spawn(self._end_deleted(function_id))

    async def _end_deleted(self, function_id: str) -> None:
        await asyncio.sleep(DELETE_GRACE_S)
        await self._pools.end_running(function_id, ExitKind.CANCELLED, "function_deleted")
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
        return msgspec.structs.replace(
            self._node.pools,
            min_instances=function.min_instances if self._node.owns(function) else 0,
            max_instances=function.max_instances,
            tenant_id=function.tenant_id,
        )

    def _check_quota(self, min_instances: int) -> None:
        """Raises `Unprocessable` if `min_instances` exceeds the maximum for one tenant."""
        most = self._node.tenant_instances
        if min_instances > most:
            expected = f"at most {most:g}, the quota of instances of a tenant"
            raise Unprocessable.field("min_instances", expected, min_instances, 0)


def _log_failure(error: BaseException) -> None:
    _log.error("a change of a function failed in the background", error=repr(error))


def _give_up(activity: Activity) -> None:
    """Make the operation that waits for instances of the function give up."""
    if activity.preparing is not None and not activity.preparing.expired():
        activity.preparing.reschedule(asyncio.get_running_loop().time())


def _state(entry: Entry) -> dict[str, str]:
    return {"state": entry.function.state}


def _not_yet(away: StoreUnavailable) -> None:
    _log.warning(f"the end of a deployment could not be stored yet: {away}")


class _Late(NotPrepared):
    """The instances weren't ready in time."""


def _failing(function: Function, error: NotPrepared | None) -> Function:
    return function.failing(None) if error is None else function.failing(str(error), error.written)
