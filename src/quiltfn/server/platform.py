"""The composition root: every part of a server is made here, from what differs between servers.

The server (`main.py`) and the tests open the same platform: on the launcher's sandboxes or fakes,
in a data directory, by the machine's clock or one that a test moves. Parts open in the order in
which they need each other and close backwards; where opening fails, what was open is closed.
"""

import asyncio
import math
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager
from functools import partial
from typing import TYPE_CHECKING

import msgspec
import structlog
from msgspec.structs import replace

from quiltfn import __version__
from quiltfn.api.fleet_node import Alone
from quiltfn.api.http.budgets import Budgets, CallOutputBudget
from quiltfn.api.http.errors import error_body
from quiltfn.api.http.idempotency import NAMES_RECORD, Idempotency
from quiltfn.api.routes.system import refresh_metrics
from quiltfn.api.services import Services
from quiltfn.base.clock import ResumableClock
from quiltfn.base.store_retry import until_stored
from quiltfn.calls.canaries import Canaries
from quiltfn.calls.deliveries import Deliveries
from quiltfn.calls.dispatch import Dispatcher
from quiltfn.calls.events import Events
from quiltfn.calls.invoke import Invoker
from quiltfn.calls.metering import Metering
from quiltfn.calls.node_report import report_of
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
from quiltfn.host.health import Health, HostFacts
from quiltfn.images import ImageDirectory
from quiltfn.model.errors import ShuttingDown, StoreUnavailable, Unprocessable
from quiltfn.model.keepalive import KeepAlive, policy_maker
from quiltfn.model.limits import PoolLimits
from quiltfn.model.member import Presence
from quiltfn.model.memory import Memory
from quiltfn.model.retention import StorageLimit
from quiltfn.model.runtime import built_in
from quiltfn.model.version import HostLimits
from quiltfn.pool.local import LocalPools
from quiltfn.pool.parking import Parking
from quiltfn.pool.reaper import reap
from quiltfn.ports import ChangeKind, Clock, PoolCounting, StockedSandboxes
from quiltfn.ports.deliveries import CallbackSender
from quiltfn.ports.fleet import NodeRemoved, Nodes
from quiltfn.server.background import (
    Task,
    background_tasks,
    compare_when_unsure,
    inputs_bound,
    keep_running,
)
from quiltfn.server.bounds import (
    api_limits,
    budgets,
    image_limits,
    sandbox_room,
    tenant_limits,
    version_limits,
)
from quiltfn.server.retention import continue_ids, resume_clock
from quiltfn.server.standalone_node import LoneNode
from quiltfn.server.telemetry import Telemetry, open_telemetry
from quiltfn.settings import Settings, is_loopback
from quiltfn.store import (
    SpoolJournal,
    SqlAliases,
    SqlAudit,
    SqlClockStore,
    SqlDeliveries,
    SqlIdempotencyStore,
    SqlKeys,
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
from quiltfn.store.calls.inputs import Cipher
from quiltfn.tenants.access import Access, Verifier
from quiltfn.tenants.admission import Admission
from quiltfn.tenants.disabled import DisabledTenants
from quiltfn.tenants.quotas import Quotas

if TYPE_CHECKING:
    from quiltfn.fleet.calls import FleetCalls
    from quiltfn.fleet.files import NodeFile
    from quiltfn.fleet.follower import Follower, Listener
    from quiltfn.fleet.membership import Membership
    from quiltfn.fleet.shared_instances import SharedInstances

UNKEPT = StoreUnavailable("this may have been done; the answer to it could not be kept")
DIED = ShuttingDown(
    "the server ended while the first call with this key was running", hint=NAMES_RECORD
)

# Opens the sandboxes of this machine, which count in the memory given.
OpenSandboxes = Callable[[Memory], AbstractAsyncContextManager[StockedSandboxes]]


class CannotServe(Exception):
    """The settings do not fit the machine or the data directory: a sentence for the operator."""


class Node(msgspec.Struct, frozen=True, kw_only=True):
    """The facts about a server's machine. `secrets`: each by the setting that names its file;
    `fleet`: what makes it a node of a fleet, None where the server is alone.
    """

    machine: HostFacts
    secrets: Mapping[str, bytes] = msgspec.field(default_factory=dict)
    fleet: "NodeFile | None" = None

    def secret(self, name: str) -> bytes | None:
        return self.secrets.get(name)


class CallParts(msgspec.Struct, frozen=True):
    """What calls run on."""

    store: SqlStore
    catalog: Catalog
    versions: KnownVersions
    pools: LocalPools
    journal: SpoolJournal
    invoker: Invoker
    clock: Clock
    budgets: Budgets


def _unended() -> "asyncio.Future[Exception]":
    return asyncio.get_running_loop().create_future()


class Platform(msgspec.Struct, frozen=True):
    """A server without its socket: the services that routes call, and the parts below them.
    `ended`: gets the error with which the server has to end by itself.
    """

    services: Services
    store: SqlStore
    journal: SpoolJournal
    pools: LocalPools
    health: Health
    work: Work
    dispatcher: Dispatcher
    ended: "asyncio.Future[Exception]" = msgspec.field(default_factory=_unended)


@asynccontextmanager
async def open_platform(
    settings: Settings,
    sandboxes: OpenSandboxes,
    store: AbstractAsyncContextManager[SqlStore],
    clock: ResumableClock,
    node: Node,
) -> AsyncIterator[Platform]:
    """Opens every part and starts the background tasks. Raises `CannotServe` and as parts do."""
    async with AsyncExitStack() as stack:
        telemetry = await stack.enter_async_context(telemetry_of(settings, clock, node))
        opened, others = await _opened_store(store, clock, stack)
        membership = await _joined(settings, opened, others, clock, node, stack)
        journal, idempotency = await _started_records(settings, opened, clock, stack)
        credentials = access, disabled = await _started_access(settings, opened, clock, node)
        stock, pools = await _opened_pools(settings, sandboxes, clock, node, stack)
        invoker = Invoker(pools, journal, clock, node.machine.node_id, telemetry.tracer)
        parts = _call_parts(settings, opened, pools, invoker, journal, clock)
        shared, fleet = _shared_with_others(membership, node, parts, stock, credentials, stack)
        admission, stats, quotas, meter = await quotas_of(settings, parts, fleet, disabled, stack)
        work, dispatcher, deliveries, schedules = await work_of(parts, quotas, settings, node)
        _end(stack, meter.store, invoker.aclose, dispatcher.join, pools.aclose, dispatcher.stop)
        runtimes = await restored_runtimes(settings, node.machine, opened, admission, clock)
        await _share_images(shared, fleet, runtimes.tenant_images, others, parts, stack)
        functions = await functions_of(parts, quotas, settings, node, runtimes)
        kept = background_tasks(settings, opened, runtimes.tenant_images, stock, stats, clock)
        services = Services(
            clock=clock,
            access=access,
            admission=admission,
            idempotency=idempotency,
            catalog=parts.catalog,
            lifecycle=functions.lifecycle,
            elasticity=functions.elasticity,
            deliveries=deliveries,
            events=await connected_events(parts, work, dispatcher, schedules, fleet, stack),
            invoker=invoker,
            work=work,
            pools=pools,
            warm_stock=stock,
            journal=journal,
            keys=SqlKeys(opened.database),
            audit=SqlAudit(opened.database),
            runtimes=runtimes,
            tenant_images=runtimes.tenant_images,
            schedules=schedules,
            stats=stats,
            urls=await _restored_urls(settings, parts, access),
            aliases=functions.aliases,
            quotas=quotas,
            nodes=_nodes(membership, parts),
            fleet=fleet or Alone(pools),
            health=_health(node, opened, journal, settings, stock, clock),
            limits=api_limits(settings),
            budgets=parts.budgets,
            tracer=telemetry.tracer,
        )
        own = *_own_tasks(parts, telemetry, services), meter.run
        _run_until_closed(stack, *own, await _begun_work(membership, dispatcher, journal))
        _run_until_closed(stack, *kept, *follow_others(others, services, dispatcher, parts, clock))
        yield _completed(services, parts, dispatcher, membership, shared, stack)


def _own_tasks(parts: CallParts, telemetry: Telemetry, services: Services) -> tuple[Task, ...]:
    """What goes on while the server is open."""
    canaries = Canaries(services.aliases, services.invoker, services.audit, services.clock)
    services.aliases.on_rolled_back.append(services.events.alias_rolled_back)
    services.invoker.defaults = services.aliases.defaults
    services.invoker.default_version = services.aliases.default_version
    return (
        canaries.run,
        *pool_tasks(parts),
        services.access.keep_fresh,
        services.deliveries.run,
        services.schedules.run,
        services.idempotency.tell_again,
        partial(telemetry.send_metrics, partial(refresh_metrics, services)),
    )


def _call_parts(
    chosen: Settings,
    store: SqlStore,
    pools: LocalPools,
    invoker: Invoker,
    journal: SpoolJournal,
    clock: Clock,
) -> CallParts:
    catalog, bounds = Catalog(chosen.functions_max_bytes), budgets(chosen)
    versions = KnownVersions(store)
    return CallParts(store, catalog, versions, pools, journal, invoker, clock, bounds)


async def _joined(
    chosen: Settings,
    store: SqlStore,
    others: "Follower | None",
    clock: Clock,
    node: Node,
    stack: AsyncExitStack,
) -> "Membership | None":
    """The fleet's other nodes know of this one from now on, until everything else is closed; None
    for a server that is alone. Raises `CannotServe`.
    """
    if node.fleet is None:
        return None
    # A server that is alone has nothing of it in memory.
    from quiltfn.fleet.join import joined, times_of  # noqa: PLC0415

    times, address = times_of(chosen), node.fleet.address
    try:
        made = await stack.enter_async_context(joined(store, clock, times, address, DIED))
    except NodeRemoved as error:
        raise CannotServe(str(error)) from None
    if others is not None:
        made.lag_s = others.lag_s
    store.database.servers = partial(_present, made)
    return made


def _present(membership: "Membership") -> int:
    """How many nodes there are, as far as this one has seen."""
    return sum(one.presence is Presence.PRESENT for one in membership.seen())


async def _begun_work(
    membership: "Membership | None", dispatcher: Dispatcher, journal: SpoolJournal
) -> Task:
    """Begins accepted work; returns what begins the rest of it after a start on a full disk."""
    if membership is None:
        await dispatcher.start()
    else:
        from quiltfn.fleet.join import begin_work  # noqa: PLC0415 - as above

        await begin_work(membership, dispatcher)
    return partial(run_recovered, journal, dispatcher)


def _shared_with_others(
    membership: "Membership | None",
    node: Node,
    parts: CallParts,
    stock: StockedSandboxes,
    credentials: tuple[Access, DisabledTenants],
    stack: AsyncExitStack,
) -> "tuple[SharedInstances, FleetCalls] | tuple[None, None]":
    """On a node of a fleet the pools start from now on what the store grants, and calls may go to
    other nodes, until the stack is closed; None and None for a server that is alone.
    """
    if membership is None or node.fleet is None:
        return None, None
    from quiltfn.fleet.calls import FleetCalls  # noqa: PLC0415 - as above
    from quiltfn.fleet.join import follow_keys, tell_failovers  # noqa: PLC0415 - as above
    from quiltfn.fleet.keys import PingedRevisions  # noqa: PLC0415 - as above
    from quiltfn.fleet.shared_instances import SharedInstances  # noqa: PLC0415 - as above

    shared = SharedInstances(stock, membership, parts.clock)
    shared.bind(parts.pools, parts.store, stack)
    revisions = PingedRevisions(credentials[0])
    within = parts.invoker, parts.pools, shared.obtain
    calls = FleetCalls(node.fleet, membership, *within, revisions)
    calls.placement.holders = shared.others
    stack.push_async_callback(calls.aclose)
    failovers = tell_failovers(membership, calls, parts.store)
    stack.push_async_callback(failovers.aclose)
    stack.callback(membership.on_read.remove, failovers.read)
    _run_until_closed(stack, follow_keys(membership, calls, credentials, revisions).run)
    return shared, calls


async def _share_images(
    shared: "SharedInstances | None",
    calls: "FleetCalls | None",
    tenant_images: TenantImages,
    others: "Follower | None",
    parts: CallParts,
    stack: AsyncExitStack,
) -> None:
    """On a node of a fleet images come from other nodes and go to them, until the stack is
    closed.
    """
    if shared is None or calls is None or others is None:
        return
    from quiltfn.fleet.shared_images import share_images  # noqa: PLC0415 - as above

    images = await share_images(calls, shared, tenant_images, others, parts)
    stack.push_async_callback(images.aclose)
    stack.callback(shared.membership.on_read.remove, images.read)
    _run_until_closed(stack, images.run)


def _nodes(membership: "Membership | None", parts: CallParts) -> Nodes:
    """The nodes as operators see them."""
    if membership is not None:
        return membership
    boot, report = parts.store.database.boot, partial(report_of, parts.pools, parts.invoker)
    return LoneNode(boot.node_id, boot.epoch, __version__, report)


def _completed(
    services: Services,
    parts: CallParts,
    dispatcher: Dispatcher,
    membership: "Membership | None",
    shared: "SharedInstances | None",
    stack: AsyncExitStack,
) -> Platform:
    """The platform. Until the stack is closed it does what an operator of its fleet wants, and
    shares instances with its other nodes.
    """
    _end(stack, services.elasticity.aclose, services.lifecycle.aclose)
    within = parts.store, parts.journal, parts.pools
    made = Platform(services, *within, services.health, services.work, dispatcher)
    if shared is not None:
        dispatcher.may_begin = shared.may_begin
        _run_until_closed(stack, *shared.tasks(services.catalog, services.lifecycle))
    if membership is not None:
        from quiltfn.fleet.join import NodeControl, has_older_nodes  # noqa: PLC0415 - as above

        for part in (services.runtimes, services.aliases, services.quotas):
            part.has_older_nodes = partial(has_older_nodes, membership)

        stack.push_async_callback(NodeControl(membership, made).aclose)
    else:
        services.health.missing_images = services.tenant_images.missing
    return made


def _health(
    node: Node,
    store: SqlStore,
    journal: SpoolJournal,
    chosen: Settings,
    stock: StockedSandboxes,
    clock: ResumableClock,
) -> Health:
    started_at = int(clock.unix())
    return Health(node.machine, store, journal, chosen.data_dir, stock.why_not, started_at)


def pool_tasks(parts: CallParts) -> tuple[Task, ...]:
    """What looks after pools beside calls: it ends what was idle for too long, and parks an
    instance of each function that lacks one.
    """

    def calls(function_id: str) -> int:
        entry = parts.catalog.known(function_id)
        return entry.counters.invocation_count if entry else 0

    return partial(reap, parts.pools), Parking(parts.pools, calls).run


async def quotas_of(
    chosen: Settings,
    parts: CallParts,
    fleet: "FleetCalls | None",
    disabled: DisabledTenants,
    stack: AsyncExitStack,
) -> tuple[Admission, SqlStats, Quotas, Metering]:
    """What admits calls, the statistics of calls, the quotas, which are told of every commit
    because they are counted by it, and what measures instances.
    """
    database, admission = parts.store.database, Admission(parts.clock, tenant_limits(chosen))
    admission.give_way = parts.invoker.give_way
    if fleet is not None:
        admission.others = fleet.tenants
    bound = StorageLimit(tenant=chosen.tenant_stats_bytes, all=chosen.stats_bytes)
    stats = SqlStats(database, parts.clock, bound)
    quotas = Quotas(SqlQuotas(database), stats, admission, parts.clock, disabled)
    parts.journal.on_counted.append(quotas.counted)
    await quotas.restore()
    stack.push_async_callback(quotas.aclose)
    return admission, stats, quotas, Metering(parts.pools, stats, parts.clock)


def telemetry_of(
    chosen: Settings, clock: Clock, node: Node
) -> AbstractAsyncContextManager[Telemetry]:
    return open_telemetry(chosen, node.machine, clock, node.secret("otlp_headers_file"))


class FunctionParts(msgspec.Struct, frozen=True):
    """What changes functions."""

    lifecycle: Lifecycle
    elasticity: Elasticity
    aliases: Aliases


async def functions_of(
    parts: CallParts, quotas: Quotas, chosen: Settings, node: Node, runtimes: Runtimes
) -> FunctionParts:
    """The functions as they were, what changes them, and the aliases that they have."""
    config = node_config(chosen, node.machine, runtimes, quotas.disabled)
    if not parts.store.database.boot.is_alone:
        name = node.machine.node_id
        config = replace(config, owns=lambda function: function.owner_node_id == name)
    lifecycle = Lifecycle(
        parts.catalog, parts.store, parts.versions, parts.pools, parts.clock, config
    )
    await lifecycle.restore()
    within = parts.catalog, lifecycle, parts.invoker
    quotas.disabled.on_change.append(partial(end_or_reopen, *within))
    elasticity = Elasticity(lifecycle, SqlOperations(parts.store.database), parts.clock)
    await elasticity.restore()
    stored = SqlAliases(parts.store.database)
    aliases = Aliases(stored, parts.catalog, lifecycle, parts.clock)
    await aliases.restore()
    parts.catalog.on_change.append(aliases.function_changed)
    return FunctionParts(lifecycle, elasticity, aliases)


async def _restored_urls(chosen: Settings, parts: CallParts, access: Access) -> Urls:
    stored = SqlUrls(parts.store.database)
    urls = Urls(stored, parts.catalog, chosen.url_host, access.has_keys)
    await urls.restore()
    parts.catalog.on_change.append(urls.function_changed)
    return urls


async def work_of(
    parts: CallParts, quotas: Quotas, chosen: Settings, node: Node
) -> tuple[Work, Dispatcher, Deliveries, Schedules]:
    """What callers do with accepted work, what runs it, what tells its end to destinations, and
    what gives more of it when it is due.
    """
    queue, policies = await restored_work(chosen, parts.store, node)
    dispatcher = Dispatcher(
        store=queue,
        versions=parts.versions,
        catalog=parts.catalog,
        pools=parts.pools,
        invoker=parts.invoker,
        policies=policies,
        admission=quotas.admission,
        journal=parts.journal,
        clock=parts.clock,
        long_output=partial(CallOutputBudget, parts.budgets.outputs),
    )
    work = Work(
        store=queue,
        functions=parts.store,
        policies=policies,
        journal=parts.journal,
        invoker=parts.invoker,
        queue=dispatcher,
        clock=parts.clock,
        tracer=parts.invoker.tracer,
    )
    parts.catalog.on_change.append(policies.function_changed)
    parts.invoker.on_closed.append(work.waiters.closed)
    schedules = Schedules(
        SqlSchedules(parts.store.database, queue.accept_in),
        parts.catalog,
        work,
        quotas.admission,
        chosen.tenant_schedules,
    )
    return work, dispatcher, deliveries_of(parts, queue, work, quotas.disabled, chosen), schedules


def deliveries_of(
    parts: CallParts, queue: SqlWork, work: Work, disabled: DisabledTenants, chosen: Settings
) -> Deliveries:
    """What sends the ends of accepted work to destinations, told of those from now on."""

    def open_sender() -> CallbackSender:
        # Imported late: it takes some megabytes, which a server without callbacks need not have.
        from quiltfn.calls.callbacks import Callbacks  # noqa: PLC0415

        return Callbacks(chosen.callback_ranges())

    store = SqlDeliveries(parts.store.database, queue)
    deliveries = Deliveries(store, parts.catalog, work, parts.journal, open_sender, disabled)
    parts.invoker.on_closed.append(deliveries.ended)
    return deliveries


async def run_recovered(journal: SpoolJournal, dispatcher: Dispatcher) -> None:
    """After a start on a full disk: work that the last server had claimed waits again later."""
    if await journal.recovered():
        await until_stored(dispatcher.start)


async def connected_events(
    parts: CallParts,
    work: Work,
    dispatcher: Dispatcher,
    schedules: Schedules,
    fleet: "FleetCalls | None",
    stack: AsyncExitStack,
) -> Events:
    """The events, told of what happens from now on, until the stack is closed."""
    epoch = parts.store.database.boot.epoch
    pools: PoolCounting = parts.pools if fleet is None else fleet.pools
    events = Events(parts.clock, epoch, pools.counts, work.stored_counts)
    parts.catalog.on_change.append(events.function_changed)
    told = [events]
    if fleet is not None:  # others have the changes of functions from the store
        told.append(Events(parts.clock, epoch, parts.pools.counts, None))
    for one in told:
        stack.push_async_callback(one.aclose)
        parts.invoker.on_opened.append(one.call_started)
        parts.invoker.on_closed.append(one.call_ended)
        parts.pools.on_change.append(one.pool_changed)
        for changes in (parts.invoker.on_opened, parts.invoker.on_closed):
            changes.append(one.work_changed)
        dispatcher.on_arrived.append(one.queue_changed)
        schedules.on_fired.append(one.schedule_fired)
    if fleet is not None:
        await stack.enter_async_context(fleet.watching(*told))
    return events


async def _opened_store(
    store: AbstractAsyncContextManager[SqlStore], clock: ResumableClock, stack: AsyncExitStack
) -> tuple[SqlStore, "Follower | None"]:
    """The store, and what follows the other nodes from now on, by whose clock this one goes; None
    for a server that is alone.
    """
    opened = await stack.enter_async_context(store)
    if opened.database.boot.is_alone:
        return opened, None
    from quiltfn.fleet.follower import Follower  # noqa: PLC0415 — a server alone has none of it

    await go_by_database(clock, opened)
    others = Follower(opened)
    await others.start()
    stack.push_async_callback(others.aclose)
    return opened, others


async def go_by_database(clock: ResumableClock, store: SqlStore) -> None:
    """The time of a node is that of the database that all nodes share."""
    reading = await store.database.clock()
    if reading is not None:
        clock.go_by(reading)


def follow_others(
    others: "Follower | None",
    services: Services,
    dispatcher: Dispatcher,
    parts: CallParts,
    clock: ResumableClock,
) -> tuple[Task, ...]:
    """Has every service follow the other nodes, if there can be some; returns what is to be run
    for that, or for what this server itself may not have heard of.
    """
    listeners, store = _listeners(services), parts.store
    if others is None:
        return (partial(compare_when_unsure, store, listeners.values()),)
    from quiltfn.fleet.calls import FleetCalls  # noqa: PLC0415 — as above
    from quiltfn.fleet.follower import SLOW_EVERY_S, Repeated  # noqa: PLC0415 — as above
    from quiltfn.store.functions.changes import Notice  # noqa: PLC0415

    others.listeners |= listeners
    for one in (services.lifecycle, services.runtimes, services.schedules, services.deliveries):
        one.catch_up = others.refresh
    dispatcher.catch_up = others.refresh
    if isinstance(services.fleet, FleetCalls):
        services.fleet.placement.catch_up = services.lifecycle.hear_of_others
    nodes = store.database.servers
    changes = Repeated(others.refresh, nodes=nodes)
    within = dispatcher.follow_waiting, services.deliveries.follow_waiting
    waiting = Repeated(*within, nodes=nodes)
    use = Repeated(services.quotas.follow_use, services.work.follow_ends, services.schedules.look)
    keep_time = partial(go_by_database, clock, store)
    count = partial(services.lifecycle.follow_counters, parts.journal)
    slow = Repeated(count, keep_time, every_s=SLOW_EVERY_S)
    wakes: dict[str, Callable[[], None]] = {
        Notice.CHANGE: changes.wake,
        Notice.WORK: waiting.wake,
    }

    def told(notice: str) -> None:
        if notice in wakes:  # a later release may tell more
            wakes[notice]()

    async def listen() -> None:
        await store.database.listen(told)

    return listen, changes.run, waiting.run, use.run, slow.run


def _listeners(services: Services) -> "dict[ChangeKind, Listener]":
    """What takes over each kind of change, in the order in which they are told."""

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
    }


def _end(stack: AsyncExitStack, *closes: Callable[[], Awaitable[None]]) -> None:
    """At the end these are called, the last one first."""
    for close in closes:
        stack.push_async_callback(close)


def _run_until_closed(stack: AsyncExitStack, *tasks: Task) -> None:
    running = [asyncio.ensure_future(keep_running(one)) for one in tasks]
    stack.push_async_callback(_end_all, running)


async def _end_all(tasks: list[asyncio.Task[None]]) -> None:
    """Waits until they have ended, because they use what is closed next."""
    for task in tasks:
        task.cancel()
    await asyncio.wait(tasks)


async def _started_access(
    settings: Settings, store: SqlStore, clock: Clock, node: Node
) -> tuple[Access, DisabledTenants]:
    disabled = DisabledTenants()
    access = Access(
        SqlKeys(store.database),
        clock,
        disabled=disabled,
        stale_after_s=math.inf if node.fleet is None else settings.fleet_fence_s,
        verify=token_verifier(node),
    )
    await access.refresh()
    check_address(settings, node.machine, access)
    return access, disabled


async def _started_records(
    chosen: Settings, store: SqlStore, clock: ResumableClock, stack: AsyncExitStack
) -> tuple[SpoolJournal, Idempotency]:
    """What keeps records, and answers to repeated requests, whose calls the first one knows."""
    store.version_limits = version_limits(chosen)
    journal = await _started_journal(chosen, store, clock, stack)
    return journal, await _started_idempotency(chosen, store, clock, stack)


async def _started_journal(
    chosen: Settings, store: SqlStore, clock: ResumableClock, stack: AsyncExitStack
) -> SpoolJournal:
    """It decides about the work of the last server by trusted time, so the clock goes first."""
    database = store.database
    clock_store = SqlClockStore(database, is_shared=not database.boot.is_alone)
    await resume_clock(clock, clock_store)
    is_strict = chosen.durability == "strict"
    journal = SpoolJournal(store.database, chosen.data_dir, clock, is_strict=is_strict)
    await journal.start()
    stack.push_async_callback(journal.aclose)
    await continue_ids(clock, clock_store)
    return journal


async def _started_idempotency(
    chosen: Settings, store: SqlStore, clock: Clock, stack: AsyncExitStack
) -> Idempotency:
    bound = StorageLimit(tenant=chosen.tenant_answers_bytes, all=chosen.keep_answers_bytes)
    answers = SqlIdempotencyStore(store.database, bound)
    await answers.start(error_body(DIED))
    idempotency = Idempotency(answers, clock, error_body(UNKEPT))
    stack.push_async_callback(idempotency.aclose)
    return idempotency


def token_verifier(node: Node) -> Verifier | None:
    """How tokens are verified, None where none are taken. Raises `CannotServe`."""
    secret, key_set = node.secret("jwt_secret"), node.secret("jwt_jwks")
    if secret is None and key_set is None:
        return None
    from quiltfn.tenants.tokens import BadTokenSettings, verifier  # noqa: PLC0415 - long to import

    try:
        return verifier(secret, key_set)
    except BadTokenSettings as error:
        raise CannotServe(str(error)) from None


def record_cipher(secret: bytes | None) -> Cipher | None:
    """What encrypts inputs at rest, None where nothing does. Raises `ValueError` for a bad key."""
    if secret is None:
        return None
    from quiltfn.store.calls.record_key import RecordKey  # noqa: PLC0415 - long to import

    return RecordKey(secret)


async def restored_work(chosen: Settings, store: SqlStore, node: Node) -> tuple[SqlWork, Policies]:
    """The queue of accepted work, and what functions say of theirs. Raises `CannotServe` for a key
    that does not open its inputs.
    """
    policies = Policies(SqlPolicies(store.database))
    await policies.restore()
    secret = node.secret("record_key_file")
    try:
        work = SqlWork(store.database, inputs_bound(chosen), record_cipher(secret))
        await work.check_key()
    except (ValueError, Unprocessable) as error:
        raise CannotServe(f"record_key_file cannot be used: {error}") from None
    return work, policies


def check_address(chosen: Settings, machine: HostFacts, access: Access) -> None:
    """Raises `CannotServe` if other machines reach the address while no key is needed."""
    log = structlog.get_logger("quiltfn.server.main")
    if not machine.is_store_verified:
        log.warning(
            "whoever is between this server and PostgreSQL could take its place: see doctor"
        )
    if machine.transport == "cleartext" and not access.is_open:
        log.warning("other machines reach this server and it does not encrypt: set tls_cert")
    if access.is_open and not is_loopback(chosen.host):
        raise CannotServe(
            f"host {chosen.host} is no loopback address, and there is no key yet, so anybody who "
            "reaches it could run code here. Make one first: quiltfn keys create --tenant default "
            f"--data-dir {chosen.data_dir}"
        )


def node_config(
    chosen: Settings, machine: HostFacts, runtimes: Runtimes, disabled: DisabledTenants
) -> NodeConfig:
    return NodeConfig(
        node_id=machine.node_id,
        host=HostLimits(
            memory_max_mib=machine.memory_max_mib,
            cores=machine.cores,
            timeout_max_s=chosen.timeout_max_s,
        ),
        runtimes=runtimes,
        may_run=disabled.may_run,
        tenant_instances=chosen.tenant_instances,
        pools=PoolLimits(
            idle_s=chosen.idle_s,
            queue_max=chosen.queue_max,
            queue_wait_s=chosen.queue_wait_s,
            grace_s=chosen.rollback_grace_s,
            park_s=chosen.park_s,
        ),
    )


async def _opened_pools(
    chosen: Settings, sandboxes: OpenSandboxes, clock: Clock, node: Node, stack: AsyncExitStack
) -> tuple[StockedSandboxes, LocalPools]:
    """The sandboxes and the pools, which count in one memory."""
    memory = Memory(budget_mib=node.machine.memory_max_mib)
    stock = await stack.enter_async_context(sandboxes(memory))
    policy = keep_alive_policy(chosen)
    return stock, LocalPools(stock, clock, memory, policy, chosen.tenant_instances)


def keep_alive_policy(chosen: Settings) -> Callable[[], KeepAlive | None]:
    """Makes a policy for each function; None under the fixed rule, which needs only `idle_s`."""
    if chosen.keep_alive == "fixed":
        return lambda: None
    return policy_maker(chosen.keep_alive, chosen.idle_s)


async def restored_tenant_images(
    chosen: Settings, store: SqlStore, clock: Clock, admission: Admission
) -> TenantImages:
    """Which tenant has which images, as stored."""
    images = ImageDirectory(chosen.data_dir / "images", clock, image_limits(chosen))
    images.start()
    tenant_images = TenantImages(
        SqlTenantImages(store.database),
        images,
        clock,
        admission.image_bytes,
        chosen.images_bytes,
    )
    await tenant_images.restore(may_be_elsewhere=not store.database.boot.is_alone)
    return tenant_images


async def restored_runtimes(
    chosen: Settings,
    machine: HostFacts,
    store: SqlStore,
    admission: Admission,
    clock: Clock,
) -> Runtimes:
    """What the names of runtimes stand for, as stored, and the images of tenants below them."""
    tenant_images = await restored_tenant_images(chosen, store, clock, admission)
    host = HostImage(
        built_in=built_in(machine.interpreters, machine.packages),
        packages=machine.packages,
        no_gvisor=machine.no_gvisor,
        most=sandbox_room(chosen),
    )
    rules = TenantRules.of(chosen.words, chosen.tenant_runtimes)
    runtimes = Runtimes(host, SqlRuntimes(store.database), tenant_images, clock, rules)
    await runtimes.restore()
    return runtimes
