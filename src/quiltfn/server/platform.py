"""The composition root: creates every part of a server from the inputs that differ.

The server (`main.py`) and the tests open the same platform: on the launcher's sandboxes or fakes,
in a data directory, with the machine's clock or one that a test sets. Four steps: open the
resources below all parts (`ground.py`); create all parts, each complete; connect signals to their
listeners (`connect`); load stored data into memory. Parts close in reverse order; if a step fails,
the parts that were open are closed.
"""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager
from functools import partial
from typing import TYPE_CHECKING

import msgspec

from quiltfn.api.http.budgets import Budgets, CallOutputBudget
from quiltfn.api.routes.system import refresh_metrics
from quiltfn.api.services import Services
from quiltfn.base.clock import ResumableClock
from quiltfn.calls.canaries import Canaries
from quiltfn.calls.deliveries import Deliveries
from quiltfn.calls.dispatch import Dispatcher
from quiltfn.calls.invoke import Invoker
from quiltfn.calls.metering import Metering
from quiltfn.calls.schedules import Schedules
from quiltfn.calls.suspension import end_or_reopen
from quiltfn.calls.work import Work
from quiltfn.functions.aliases import Aliases
from quiltfn.functions.catalog import Catalog
from quiltfn.functions.elasticity import Elasticity
from quiltfn.functions.lifecycle import Lifecycle, NodeConfig
from quiltfn.functions.policies import Policies
from quiltfn.functions.runtimes import HostImage, Runtimes, TenantRules
from quiltfn.functions.tenant_images import TenantImages
from quiltfn.functions.urls import Urls
from quiltfn.functions.version_cache import KnownVersions
from quiltfn.host.health import Health
from quiltfn.images import ImageDirectory
from quiltfn.model.errors import Unprocessable
from quiltfn.model.keepalive import KeepAlive, policy_maker
from quiltfn.model.limits import PoolLimits
from quiltfn.model.retention import StorageLimit
from quiltfn.model.runtime import built_in
from quiltfn.model.version import HostLimits
from quiltfn.pool.local import LocalPools
from quiltfn.pool.parking import Parking
from quiltfn.pool.reaper import reap
from quiltfn.ports import ChangeKind
from quiltfn.ports.deliveries import CallbackSender
from quiltfn.server.background import (
    Task,
    background_tasks,
    compare_when_unsure,
    inputs_bound,
    keep_running,
    run_recovered,
)
from quiltfn.server.bounds import (
    api_limits,
    budgets,
    image_limits,
    sandbox_room,
    tenant_limits,
    version_limits,
)
from quiltfn.server.ground import (
    CannotServe,
    Ground,
    Node,
    OpenSandboxes,
    open_ground,
    record_cipher,
)
from quiltfn.server.retention import follow_wall_clock
from quiltfn.server.standalone_node import LoneNode, LoneParts
from quiltfn.settings import Settings
from quiltfn.store import (
    SqlAliases,
    SqlAudit,
    SqlDeliveries,
    SqlOperations,
    SqlPolicies,
    SqlQuotas,
    SqlRuntimes,
    SqlSchedules,
    SqlStats,
    SqlStore,
    SqlTenantImages,
    SqlUrls,
    SqlWork,
)
from quiltfn.tenants.admission import Admission, LimitTable
from quiltfn.tenants.quotas import Quotas

if TYPE_CHECKING:
    from quiltfn.fleet.follower import Listener
    from quiltfn.fleet.join import NodeControl
    from quiltfn.fleet.node import JoinedNode
    from quiltfn.fleet.parts import FleetParts


class CallParts(msgspec.Struct, frozen=True, kw_only=True):
    """The parts that run invocations. `shared`: the parts of a fleet that must exist before the
    pools, or their substitutes in a standalone server.
    """

    shared: "LoneParts | FleetParts"
    catalog: Catalog
    aliases: Aliases
    pools: LocalPools
    invoker: Invoker
    admission: Admission
    quotas: Quotas
    stats: SqlStats
    meter: Metering
    budgets: Budgets


class WorkParts(msgspec.Struct, frozen=True, kw_only=True):
    """The parts that run asynchronous invocations."""

    queue: SqlWork
    dispatcher: Dispatcher
    work: Work
    deliveries: Deliveries
    schedules: Schedules


class Platform(msgspec.Struct, frozen=True, kw_only=True):
    """A server without its socket: the services that routes call, and the parts below them. `node`:
    this server in a fleet, or standalone. `control`: applies what an operator sets for it in the
    fleet. `ended`: gets the error that forces the server to stop.
    """

    ground: Ground
    services: Services
    node: "LoneNode | JoinedNode"
    control: "NodeControl | None"
    pools: LocalPools
    queue: SqlWork
    dispatcher: Dispatcher
    meter: Metering
    canaries: Canaries
    ended: "asyncio.Future[Exception]"

    @property
    def store(self) -> SqlStore:
        return self.ground.store


@asynccontextmanager
async def open_platform(
    settings: Settings,
    sandboxes: OpenSandboxes,
    store: AbstractAsyncContextManager[SqlStore],
    clock: ResumableClock,
    node: Node,
) -> AsyncIterator[Platform]:
    """Open every part and start background tasks. Raises `CannotServe` and the parts' errors."""
    async with AsyncExitStack() as stack:
        ground = await open_ground(settings, sandboxes, store, clock, node, stack)
        platform = make_platform(ground)
        connect(platform)
        services, dispatcher = platform.services, platform.dispatcher
        for close in (  # closed from the last to the first
            platform.node.aclose,
            services.quotas.aclose,
            platform.meter.store,
            services.invoker.aclose,
            dispatcher.join,
            platform.pools.aclose,
            dispatcher.stop,
            *(events.aclose for events in platform.node.all_events),
            platform.node.leave,
        ):
            stack.push_async_callback(close)
        await restore(platform)
        if platform.control is None:
            await dispatcher.start()
        else:  # an operator may have cordoned this node
            await platform.control.start()
            stack.push_async_callback(platform.control.aclose)
        running = [asyncio.ensure_future(keep_running(one)) for one in tasks_of(platform)]
        stack.push_async_callback(_end_all, running)
        stack.push_async_callback(services.elasticity.aclose)
        stack.push_async_callback(services.lifecycle.aclose)
        yield platform


async def _end_all(tasks: list[asyncio.Task[None]]) -> None:
    """Cancel the tasks and wait until they have ended, since they use the parts that are closed
    next.
    """
    for task in tasks:
        task.cancel()
    await asyncio.wait(tasks)


def connect(platform: Platform) -> None:
    """Connect all signals to their listeners, which are called in this order."""
    services, node, dispatcher = platform.services, platform.node, platform.dispatcher
    all_events, deliveries, quotas = node.all_events, services.deliveries, services.quotas
    services.invoker.on_opened.connect(*(events.call_started for events in all_events))
    services.invoker.on_closed.connect(
        dispatcher.call_ended,
        services.work.waiters.call_ended,
        services.schedules.call_ended,
        deliveries.call_ended,
        *(events.call_ended for events in all_events),
        platform.canaries.call_ended,
    )
    services.catalog.on_change.connect(
        dispatcher.function_changed,
        services.work.policies.function_changed,
        services.aliases.function_changed,
        services.events.function_changed,  # not for other nodes, which get changes from the store
        services.urls.function_changed,
    )
    platform.pools.on_change.connect(
        *node.pool_changed, *(events.pool_changed for events in all_events)
    )
    services.aliases.on_change.connect(platform.canaries.alias_changed)
    services.aliases.on_rolled_back.connect(services.events.alias_rolled_back)
    dispatcher.on_arrived.connect(*(events.queue_changed for events in all_events))
    services.schedules.on_fired.connect(*(events.schedule_fired for events in all_events))
    services.journal.on_counted.connect(quotas.counted)  # gets the sums of each commit
    services.admission.on_unknown_use.connect(quotas.count_soon)
    quotas.disabled.on_change.connect(
        quotas.tenant_changed,
        deliveries.tenant_changed,
        partial(end_or_reopen, services.catalog, services.lifecycle, services.invoker),
    )
    if platform.ground.follower is not None:
        platform.ground.follower.connect(listeners_of(platform))
    if not isinstance(node, LoneNode) and platform.control is not None:
        connect_to_fleet(node, platform.control)


def connect_to_fleet(node: "JoinedNode", control: "NodeControl") -> None:
    """Part of `connect`, for a node of a fleet."""
    node.events.on_followed.connect(node.followed_changed)
    node.nodes.on_read.connect(*node.member_readers)
    node.nodes.on_state.connect(control.state_changed)
    node.nodes.on_lost.connect(control.lost)
    node.nodes.connect(control.report)


def listeners_of(platform: Platform) -> "dict[ChangeKind, Listener]":
    """The listeners for each kind of change in the store, in the order in which they are called."""
    services = platform.services

    async def follow_keys(_: object) -> None:
        await services.access.refresh()

    return {
        ChangeKind.KEY: follow_keys,
        ChangeKind.FUNCTION: services.lifecycle.follow_changes,
        ChangeKind.POLICY: services.work.policies.follow_changes,
        ChangeKind.URL: services.urls.follow_changes,
        ChangeKind.ALIAS: services.aliases.follow_changes,
        ChangeKind.QUOTA: services.quotas.follow_changes,
        ChangeKind.IMAGE: services.tenant_images.follow_changes,
        ChangeKind.RUNTIME: services.runtimes.follow_changes,
        ChangeKind.SCHEDULE: services.schedules.follow_changes,
        **platform.node.listeners,
    }


async def restore(platform: Platform) -> None:
    """Load stored data into memory, and functions after everything that they need. Raises
    `CannotServe`, and `StoreUnavailable`.
    """
    services, others = platform.services, platform.ground.others
    await services.quotas.restore()
    await services.work.policies.restore()
    try:
        await platform.queue.check_key()
    except Unprocessable as error:
        raise CannotServe(f"record_key_file cannot be used: {error}") from None
    services.tenant_images.images.start()
    await services.tenant_images.restore(may_be_elsewhere=others.are_possible)
    await services.runtimes.restore()
    await platform.node.restore()
    await services.lifecycle.restore()
    await services.elasticity.restore()
    await services.aliases.restore()
    await services.urls.restore()


def tasks_of(platform: Platform) -> tuple[Task, ...]:
    """The background tasks of an open server."""
    ground, services = platform.ground, platform.services

    def invocation_count(function_id: str) -> int:
        entry = services.catalog.known(function_id)
        return entry.counters.invocation_count if entry else 0

    return (
        platform.canaries.run,
        partial(reap, platform.pools),
        Parking(platform.pools, invocation_count).run,
        services.access.keep_fresh,
        services.deliveries.run,
        services.schedules.run,
        services.idempotency.tell_again,
        partial(ground.telemetry.send_metrics, partial(refresh_metrics, services)),
        platform.meter.run,
        partial(run_recovered, services.journal, platform.dispatcher),
        partial(follow_wall_clock, ground.clock, ground.clock_store),
        *background_tasks(ground, services),
        *following_tasks(platform),
        *platform.node.tasks(services.lifecycle),
    )


def following_tasks(platform: Platform) -> "tuple[Task, ...]":
    """The tasks that follow other servers; on a standalone server, only the one that reloads memory
    after a write with an unknown outcome.
    """
    ground, services = platform.ground, platform.services
    if ground.follower is None:
        listeners = listeners_of(platform).values()
        return (partial(compare_when_unsure, ground.store, listeners),)
    from quiltfn.fleet import follower  # noqa: PLC0415 — unused by a standalone server

    return follower.tasks(
        ground.follower,
        ground.database,
        ground.others.count,
        waiting=(platform.dispatcher.follow_waiting, services.deliveries.follow_waiting),
        use=(services.quotas.follow_use, services.work.follow_ends, services.schedules.look),
        slow=(
            partial(services.lifecycle.follow_counters, services.journal),
            partial(follower.go_by_database, ground.clock, ground.store),
        ),
    )


# Parts --------------------------------------------------------------------------------------------


def make_platform(ground: Ground) -> Platform:
    """Create all parts, without waiting. Raises `CannotServe`."""
    calls = make_call_parts(ground)
    work = make_work_parts(ground, calls)
    node = make_node(calls, work.work)
    chosen, database, clock, catalog = ground.settings, ground.database, ground.clock, calls.catalog
    runtimes = make_runtimes(ground, calls.shared.tenant_images)
    config = node_config(ground, runtimes)
    lifecycle = Lifecycle(catalog, ground.store, calls.aliases, calls.pools, clock, config)
    reasons, audit = calls.shared.reasons(lambda: calls.invoker.refuses), SqlAudit(database)
    within = ground.node.machine, ground.store, ground.journal, chosen.data_dir
    services = Services(
        clock=clock,
        access=ground.access,
        admission=calls.admission,
        idempotency=ground.idempotency,
        catalog=catalog,
        lifecycle=lifecycle,
        elasticity=Elasticity(lifecycle, SqlOperations(database), clock),
        deliveries=work.deliveries,
        events=node.events,
        invoker=calls.invoker,
        work=work.work,
        pools=calls.pools,
        warm_stock=ground.stock,
        journal=ground.journal,
        keys=ground.keys,
        audit=audit,
        runtimes=runtimes,
        tenant_images=calls.shared.tenant_images,
        schedules=work.schedules,
        stats=calls.stats,
        urls=Urls(SqlUrls(database), catalog, chosen.url_host, ground.access.has_keys),
        aliases=calls.aliases,
        quotas=calls.quotas,
        nodes=node.nodes,
        fleet=node.fleet,
        health=Health(*within, reasons, int(clock.unix())),
        limits=api_limits(chosen),
        budgets=calls.budgets,
        tracer=ground.telemetry.tracer,
    )
    ended, control = asyncio.get_running_loop().create_future(), None
    if not isinstance(node, LoneNode):
        control = node.control(services, work.dispatcher, ended)
    return Platform(
        ground=ground,
        services=services,
        node=node,
        control=control,
        pools=calls.pools,
        queue=work.queue,
        dispatcher=work.dispatcher,
        meter=calls.meter,
        canaries=Canaries(calls.aliases, audit, clock),
        ended=ended,
    )


def make_shared(ground: Ground, limits: LimitTable) -> "LoneParts | FleetParts":
    chosen, clock, own = ground.settings, ground.clock, ground.node.fleet
    images = ImageDirectory(chosen.data_dir / "images", clock, image_limits(chosen))
    stored = SqlTenantImages(ground.database)
    kept = stored, images, clock, limits.image_bytes, chosen.images_bytes
    if own is None or ground.membership is None:
        return LoneParts(ground, kept)
    from quiltfn.fleet.parts import FleetParts  # noqa: PLC0415 — unused by a standalone server

    return FleetParts(own, ground.membership, ground, kept)


def make_node(calls: CallParts, work: Work) -> "LoneNode | JoinedNode":
    within = calls.pools, calls.invoker
    if isinstance(calls.shared, LoneParts):
        return LoneNode(calls.shared, *within, work.stored_counts)
    from quiltfn.fleet.node import JoinedNode  # noqa: PLC0415 — as above

    return JoinedNode(calls.shared, *within, calls.catalog, work.stored_counts)


def make_runtimes(ground: Ground, tenant_images: TenantImages) -> Runtimes:
    chosen, machine = ground.settings, ground.node.machine
    host = HostImage(
        built_in=built_in(machine.interpreters, machine.packages),
        packages=machine.packages,
        no_gvisor=machine.no_gvisor,
        most=sandbox_room(chosen),
    )
    stored, rules = (
        SqlRuntimes(ground.database),
        TenantRules.of(chosen.words, chosen.tenant_runtimes),
    )
    return Runtimes(host, stored, tenant_images, ground.clock, rules, ground.others)


def make_call_parts(ground: Ground) -> CallParts:
    chosen, database, clock, others = ground.settings, ground.database, ground.clock, ground.others
    limits = LimitTable(tenant_limits(chosen))
    shared, catalog = make_shared(ground, limits), Catalog(chosen.functions_max_bytes)
    aliases = Aliases(SqlAliases(database), catalog, KnownVersions(ground.store), clock, others)
    pools = LocalPools(
        shared.sandboxes,
        clock,
        ground.memory,
        keep_alive_policy(chosen),
        chosen.tenant_instances,
        shared.problem,
    )
    node_id, tracer = ground.node.machine.node_id, ground.telemetry.tracer
    invoker = Invoker(pools, ground.journal, clock, node_id, tracer, aliases)
    admission = Admission(clock, limits, shared.tenants, invoker.give_way)
    bound = StorageLimit(tenant=chosen.tenant_stats_bytes, all=chosen.stats_bytes)
    stats = SqlStats(database, clock, bound)
    return CallParts(
        shared=shared,
        catalog=catalog,
        aliases=aliases,
        pools=pools,
        invoker=invoker,
        admission=admission,
        quotas=Quotas(SqlQuotas(database), stats, admission, clock, ground.disabled, others),
        stats=stats,
        meter=Metering(pools, stats, clock),
        budgets=budgets(chosen),
    )


def make_work_parts(ground: Ground, calls: CallParts) -> WorkParts:
    """Raises `CannotServe`."""
    chosen, database, others = ground.settings, ground.database, ground.others
    catalog, invoker, admission = calls.catalog, calls.invoker, calls.admission
    queue = SqlWork(database, inputs_bound(chosen), record_cipher(ground.node))
    policies = Policies(SqlPolicies(database))
    dispatcher = Dispatcher(
        store=queue,
        versions=calls.aliases.versions,
        catalog=catalog,
        pools=calls.pools,
        invoker=invoker,
        policies=policies,
        admission=admission,
        journal=ground.journal,
        clock=ground.clock,
        long_output=partial(CallOutputBudget, calls.budgets.outputs),
        others=others,
        may_begin=calls.shared.may_begin,
    )
    work = Work(
        store=queue,
        functions=ground.store,
        policies=policies,
        journal=ground.journal,
        invoker=invoker,
        queue=dispatcher,
        clock=ground.clock,
        tracer=ground.telemetry.tracer,
    )

    def open_sender() -> CallbackSender:
        # Imported late, to save some megabytes in a server without callbacks.
        from quiltfn.calls.callbacks import Callbacks  # noqa: PLC0415

        return Callbacks(chosen.callback_ranges())

    bound = StorageLimit(tenant=chosen.tenant_deliveries_bytes, all=chosen.deliveries_bytes)
    deliveries = SqlDeliveries(database, queue, bound)
    schedules, most = SqlSchedules(database, queue.accept_in), chosen.tenant_schedules
    return WorkParts(
        queue=queue,
        dispatcher=dispatcher,
        work=work,
        deliveries=Deliveries(deliveries, catalog, work, open_sender, ground.disabled, others),
        schedules=Schedules(schedules, catalog, work, admission, most, others),
    )


def node_config(ground: Ground, runtimes: Runtimes) -> NodeConfig:
    chosen, machine = ground.settings, ground.node.machine
    name, is_shared = machine.node_id, ground.others.are_possible
    return NodeConfig(
        node_id=name,
        host=HostLimits(
            memory_max_mib=machine.memory_max_mib,
            cores=machine.cores,
            timeout_max_s=chosen.timeout_max_s,
        ),
        runtimes=runtimes,
        may_run=ground.disabled.may_run,
        owns=lambda function: not is_shared or function.owner_node_id == name,
        tenant_instances=chosen.tenant_instances,
        versions=version_limits(chosen),
        pools=PoolLimits(
            idle_s=chosen.idle_s,
            queue_max=chosen.queue_max,
            queue_wait_s=chosen.queue_wait_s,
            grace_s=chosen.rollback_grace_s,
            park_s=chosen.park_s,
        ),
    )


def keep_alive_policy(chosen: Settings) -> Callable[[], KeepAlive | None]:
    """A function that creates a policy for one function; it returns None for the fixed rule, which
    needs only `idle_s`.
    """
    if chosen.keep_alive == "fixed":
        return lambda: None
    return policy_maker(chosen.keep_alive, chosen.idle_s)
