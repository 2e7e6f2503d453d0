"""Runs this server as a node of a fleet: joins the other nodes through the shared store, and
applies the state that operators set for this node. A standalone server does not import this.
"""

import asyncio
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from functools import partial

import structlog

from quiltfn import __version__
from quiltfn.api.http.errors import error_body
from quiltfn.api.services import Services
from quiltfn.base.clock import ResumableClock
from quiltfn.base.others import Others
from quiltfn.base.store_retry import until_stored
from quiltfn.base.task_group import TaskGroup
from quiltfn.calls.dispatch import Dispatcher
from quiltfn.calls.node_report import report_of
from quiltfn.fleet.files import NodeFile
from quiltfn.fleet.follower import Follower, go_by_database
from quiltfn.fleet.membership import Loss, Membership
from quiltfn.fleet.observer import Observer, Times
from quiltfn.model.errors import QuiltfnError, StoreUnavailable
from quiltfn.model.member import Member, NodeState, Presence, Report
from quiltfn.ports import Clock
from quiltfn.ports.fleet import NodeRemoved
from quiltfn.settings import Settings
from quiltfn.store import SqlStore
from quiltfn.store.database.compatibility import is_older
from quiltfn.store.database.postgresql import PostgresDatabase
from quiltfn.store.fleet.members import SqlMembers

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
async def join_others(
    chosen: Settings,
    store: SqlStore,
    clock: ResumableClock,
    own: NodeFile | None,
    died: QuiltfnError,
) -> AsyncIterator[tuple[Follower, Membership | None, Others]]:
    """Follow the other servers on the store until the block ends, using the database's clock. If
    this server is a node of a fleet, it also joins the fleet. `died`: the error for repetitions of
    an idempotent request whose node was lost. Raises `NodeRemoved`, and `StoreUnavailable`.
    """
    await go_by_database(clock, store)
    follower = Follower(store)
    await follower.start()
    try:
        if own is None:
            yield follower, None, Others(follower.refresh)
            return
        async with joined(store, clock, chosen, own.address, died, follower.lag_s) as membership:
            older, count = partial(has_older_nodes, membership), lambda: len(present(membership))
            yield follower, membership, Others(follower.refresh, older, count)
    finally:
        await follower.aclose()


@asynccontextmanager
async def joined(
    store: SqlStore,
    clock: Clock,
    chosen: Settings,
    address: str,
    died: QuiltfnError,
    lag_s: Callable[[], float],
) -> AsyncIterator[Membership]:
    """Send heartbeats until the block ends, then leave the fleet; before that, everything that runs
    here must have ended. `address`: where other nodes reach this one. `died`: as for `join_others`.
    Raises `NodeRemoved`, and `StoreUnavailable`.
    """
    database = store.database
    assert isinstance(database, PostgresDatabase), "a fleet shares a PostgreSQL"
    connection, times = database.quick_connection(), times_of(chosen)
    try:
        members = SqlMembers(database, connection.run, clock, error_body(died))
        membership = Membership(members, Observer(database.boot.node_id, times), clock, lag_s)
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


def present(membership: Membership) -> Sequence[Member]:
    """The nodes that are present, as last seen by this one."""
    return [one for one in membership.seen() if one.presence is Presence.PRESENT]


def has_older_nodes(membership: Membership) -> bool:
    """Whether a node is present whose version is older than this one's."""
    there = present(membership)
    return any(one.version and is_older(one.version, __version__) for one in there)


async def _beat(membership: Membership) -> None:
    while membership.lost is None:
        try:
            await membership.run()
        except Exception:  # despite a bug, heartbeats must continue
            _log.exception("a heartbeat failed; it is tried again")
            await asyncio.sleep(AGAIN_S)


class NodeControl:
    """Applies the state that the membership reports for this node. Call `aclose` before closing the
    services. `ended`: gets the error that ends the server. Until `start`, the node reports no load
    and applies no state.
    """

    def __init__(
        self,
        membership: Membership,
        services: Services,
        dispatcher: Dispatcher,
        ended: "asyncio.Future[Exception]",
    ) -> None:
        self._membership, self._services = membership, services
        self._dispatcher, self._ended = dispatcher, ended
        self._tasks = TaskGroup()
        self._following = asyncio.Lock()
        self._has_started = self._is_leaving = False

    async def start(self) -> None:
        """Apply the current state, and then each new one. Raises `StoreUnavailable`."""
        membership = self._membership
        if membership.state is NodeState.READY:
            await self._dispatcher.start()
        else:
            await self._dispatcher.stop()
        self._has_started = True
        if membership.lost is not None:
            self.lost(membership.lost)
        self.state_changed(membership.state)

    def report(self) -> Report:
        """This node's load, for its heartbeats."""
        if self._is_leaving or not self._has_started:
            return Report(is_leaving=self._is_leaving)
        services = self._services
        return report_of(services.pools, services.invoker, services.admission.loads)

    async def aclose(self) -> None:
        """Stop applying states, and report that this node is leaving."""
        self._is_leaving = True
        self._membership.on_state.disconnect()
        self._membership.on_lost.disconnect()
        await self._tasks.aclose()

    def state_changed(self, state: NodeState) -> None:
        """Accept or refuse invocations, and start or stop dispatching asynchronous ones."""
        if not self._has_started:
            return
        is_drained = state in (NodeState.DRAINING, NodeState.REMOVED)
        self._services.invoker.refuse(DRAINED if is_drained else "")
        self._tasks.spawn(until_stored(self._follow))

    async def _follow(self) -> None:
        """Dispatch asynchronous invocations only while the node is ready."""
        async with self._following:  # Inside the lock, so that the latest state is applied last.
            if self._membership.state is NodeState.READY and not self._services.health.draining:
                await self._dispatcher.resume()
            else:
                await self._dispatcher.stop()

    def lost(self, why: Loss) -> None:
        """End the server, since this node is no longer a member."""
        if not self._ended.done():
            error = NodeRemoved if why is Loss.REMOVED else StoreUnavailable
            self._ended.set_result(error(f"this node ends: {why}"))
