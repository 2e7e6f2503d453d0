"""This server as a node of a fleet: it joins with its store, and what it hears there reaches the
parts that calls run on. A server that is alone does not import this.
"""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import partial
from typing import Protocol

import structlog

from quiltfn import __version__
from quiltfn.api.http.errors import error_body
from quiltfn.api.services import Services
from quiltfn.base.store_retry import until_stored
from quiltfn.base.task_group import TaskGroup
from quiltfn.calls.dispatch import Dispatcher
from quiltfn.calls.node_report import report_of
from quiltfn.fleet.calls import FleetCalls
from quiltfn.fleet.failovers import PATH as FAILOVERS
from quiltfn.fleet.failovers import Failovers
from quiltfn.fleet.keys import PATH as KEYS
from quiltfn.fleet.keys import FleetKeys, PingedRevisions
from quiltfn.fleet.membership import Loss, Membership
from quiltfn.fleet.observer import Observer, Times
from quiltfn.host.health import Health
from quiltfn.model.errors import QuiltfnError, StoreUnavailable
from quiltfn.model.member import Member, NodeState, Presence, Report
from quiltfn.ports import Clock
from quiltfn.ports.fleet import NodeRemoved
from quiltfn.settings import Settings
from quiltfn.store import SqlStore
from quiltfn.store.database.compatibility import is_older
from quiltfn.store.database.postgresql import PostgresDatabase
from quiltfn.store.fleet.members import SqlMembers
from quiltfn.tenants.access import Access
from quiltfn.tenants.disabled import DisabledTenants

AGAIN_S = 1.0
DRAINED = "an operator is draining this node: it takes no calls"
_log = structlog.get_logger("quiltfn.fleet")


def times_of(chosen: Settings) -> Times:
    return Times(
        beat_s=chosen.fleet_beat_s,
        fence_s=chosen.fleet_fence_s,
        end_s=chosen.fleet_end_s,
        reap_s=chosen.fleet_reap_s,
    )


@asynccontextmanager
async def joined(
    store: SqlStore, clock: Clock, times: Times, address: str, died: QuiltfnError
) -> AsyncIterator[Membership]:
    """The node beats from now on; at the end, when it has nothing left, it leaves. `address`: where
    other nodes reach it. `died`: what idempotent requests get whose node was lost. Raises
    `NodeRemoved`, and `StoreUnavailable`.
    """
    database = store.database
    assert isinstance(database, PostgresDatabase), "a fleet shares a PostgreSQL"
    connection = database.quick_connection()
    try:
        members = SqlMembers(database, connection.run, clock, error_body(died))
        membership = Membership(members, Observer(database.boot.node_id, times), clock)
        await membership.join(address)
        beating = asyncio.ensure_future(_beat(membership))
        try:
            yield membership
        finally:
            beating.cancel()
            await asyncio.wait([beating])
            await membership.leave()
    finally:
        await connection.aclose()


def has_older_nodes(membership: Membership) -> bool:
    """Whether a node is there whose version is older than this one's."""
    there = [one for one in membership.seen() if one.presence is Presence.PRESENT]
    return any(one.version and is_older(one.version, __version__) for one in there)


async def _beat(membership: Membership) -> None:
    while membership.lost is None:
        try:
            await membership.run()
        except Exception:  # A mistake of ours must not look as if this node were gone.
            _log.exception("a beat has failed; it is tried again")
            await asyncio.sleep(AGAIN_S)


def tell_failovers(membership: Membership, calls: FleetCalls, store: SqlStore) -> Failovers:
    """From now on this node and others tell each other of a failover of their database."""
    database = store.database
    assert isinstance(database, PostgresDatabase), "a fleet shares a PostgreSQL"
    failovers = Failovers(calls.uncounted, database.timeline, membership.silent)
    calls.handlers[FAILOVERS] = failovers.answer
    membership.on_read.append(failovers.read)
    return failovers


def follow_keys(
    membership: Membership,
    calls: FleetCalls,
    credentials: tuple[Access, DisabledTenants],
    revisions: PingedRevisions,
) -> FleetKeys:
    """From now on this node asks others about keys and disabled tenants while the store does not
    answer; `run` it.
    """

    def others() -> list[Member]:
        return [one for one in membership.seen() if one.name != membership.name]

    agree_s = membership.times.end_s - membership.times.fence_s  # keys end with the instances
    credentials[1].age_s = membership.lag_s
    keys = FleetKeys(credentials, calls.uncounted, others, membership.silent, revisions, agree_s)
    calls.handlers[KEYS] = keys.answer
    return keys


async def begin_work(membership: Membership, dispatcher: Dispatcher) -> None:
    """Begins accepted work, unless an operator wanted none of it on this node before its start."""
    if membership.state is NodeState.READY:
        await dispatcher.start()
    else:
        await dispatcher.stop()


class Controlled(Protocol):
    """The platform that an operator of the fleet controls."""

    @property
    def services(self) -> Services: ...
    @property
    def health(self) -> Health: ...
    @property
    def dispatcher(self) -> Dispatcher: ...
    @property
    def ended(self) -> "asyncio.Future[Exception]": ...


class NodeControl:
    """Carries out in a platform what its membership hears. `aclose` it before its parts."""

    def __init__(self, membership: Membership, platform: Controlled) -> None:
        self._membership, self._platform = membership, platform
        self._tasks = TaskGroup()
        self._following = asyncio.Lock()
        services = platform.services
        within = services.pools, services.invoker, services.admission.loads
        membership.report = partial(report_of, *within)
        membership.on_state.append(self._state_changed)
        membership.on_lost.append(self._lost)
        platform.health.why_not_seen = lambda: membership.problem
        if membership.lost is not None:
            self._lost(membership.lost)
        self._state_changed(membership.state)  # It may be one of before this start.

    async def aclose(self) -> None:
        """Nothing is carried out any more."""
        self._membership.report = partial(Report, is_leaving=True)
        self._membership.on_state.remove(self._state_changed)
        self._membership.on_lost.remove(self._lost)
        await self._tasks.aclose()

    def _state_changed(self, state: NodeState) -> None:
        refuses = DRAINED if state in (NodeState.DRAINING, NodeState.REMOVED) else ""
        self._platform.services.invoker.refuses = self._platform.health.refuses = refuses
        self._tasks.spawn(until_stored(self._follow))

    async def _follow(self) -> None:
        """Accepted work is begun here only where the node is ready."""
        async with self._following:  # The last state holds, whatever came in between.
            if self._membership.state is NodeState.READY and not self._platform.health.draining:
                await self._platform.dispatcher.resume()
            else:
                await self._platform.dispatcher.stop()

    def _lost(self, why: Loss) -> None:
        if not self._platform.ended.done():
            error = NodeRemoved if why is Loss.REMOVED else StoreUnavailable
            self._platform.ended.set_result(error(f"this node ends: {why}"))
