"""This node's membership: it sends heartbeats, detects lost nodes and takes them over, and notices
when it has lost its own membership.

`observer.py` makes the decisions; this module carries them out.
"""

import asyncio
import contextlib
from collections import Counter
from collections.abc import Callable, Sequence
from enum import StrEnum

import msgspec
import structlog

from quiltfn.base.signal import Signal
from quiltfn.fleet.lease import boottime
from quiltfn.fleet.observer import Observer, Times
from quiltfn.model.errors import Conflict, NotFound, StoreUnavailable
from quiltfn.model.member import (
    KnownNode,
    Member,
    NodeState,
    Report,
    TakenOver,
    shown_state,
)
from quiltfn.observe import metrics
from quiltfn.ports import Clock
from quiltfn.store.fleet.members import SqlMembers

AGAIN_S = 0.5
TOLD_AGAIN_S = 30.0
_log = structlog.get_logger("quiltfn.fleet")


class Loss(StrEnum):
    """Why a node is no longer a member of the fleet."""

    TAKEN_OVER = "another node has taken this one over, or it was started again elsewhere"
    REMOVED = "an operator has removed this node from the fleet"


class Membership:
    """Start it with `join`, run `run` and end it with `leave`.

    `on_state`: called with a new state of this node; `on_read`: with all members, after each look;
    `on_lost`: when this node has lost its membership, with the reason.
    """

    def __init__(
        self,
        members: SqlMembers,
        own: Observer,
        clock: Clock,
        lag_s: Callable[[], float] = float,
    ) -> None:
        """`lag_s`: how far this node is behind the changes of others, in seconds."""
        self._members, self._observer, self.clock = members, own, clock
        self._lag_s = lag_s
        self._load: Callable[[], Report] = Report
        self.times: Times = own.times
        self.name = own.name
        self.state = NodeState.READY
        self.lost: Loss | None = None
        self.taken_over = 0
        self._told_not_stored_at: float | None = None
        self._renewed_at = boottime()
        self._taking_over: asyncio.Task[None] | None = None
        self._looking = asyncio.Lock()
        self.on_state: Signal[NodeState] = Signal()
        self.on_read: Signal[Sequence[Member]] = Signal()
        self.on_lost: Signal[Loss] = Signal()

    def connect(self, load: Callable[[], Report]) -> None:
        """`load`: returns this node's load for its heartbeats, which report no load before."""
        assert self._load is Report, "it is connected already"
        self._load = load

    def renewed_at(self) -> float:
        """When this node's membership was last renewed, in seconds of CLOCK_BOOTTIME. The time is
        taken before the heartbeat is sent, so that other nodes always count from a later time.
        """
        return self._renewed_at

    @property
    def problem(self) -> str | None:
        """Why others may consider this node lost; None if they do not."""
        if self.lost is not None:
            return self.lost
        late_s = boottime() - self._renewed_at
        if late_s < self.times.fence_s:
            return None
        return f"no heartbeat was stored for {late_s:.0f} s"

    def seen(self) -> Sequence[Member]:
        """All nodes as of the last look; empty before the first one."""
        return [one.member for one in self._observer.members]

    def silent(self) -> Sequence[str]:
        """Nodes that should be present and whose heartbeat has not changed for the fence time."""
        known = (self._known(one.member) for one in self._observer.members)
        return [one.member.name for one in known if one.is_silent]

    def show(self) -> None:
        """Update the metrics with the nodes' states at the last look."""
        now = self.clock.now()
        found = [one.member for one in self._observer.members if one.member.is_member]
        metrics.show_members(
            Counter(shown_state(one) for one in found),
            {one.name: self._observer.unmoved_s(one, now) for one in found if one.is_there},
        )

    async def join(self, address: str) -> None:
        """Register this node. Raises `NodeRemoved` and `StoreUnavailable`."""
        began = boottime()
        own = await self._members.register(address, self._report())
        self._renewed_at = began
        self._heard(own)

    async def run(self) -> None:
        """Send heartbeats and look, until cancelled or no longer a member."""
        try:
            while self.lost is None:
                began = self.clock.now()
                try:
                    await self.turn()
                    self._tell_stored()
                    wait_s = self.times.beat_s
                except StoreUnavailable as error:
                    self._tell_not_stored(error)
                    wait_s = min(AGAIN_S, self.times.beat_s)
                await asyncio.sleep(max(0.0, began + wait_s - self.clock.now()))
        finally:
            await self.settled()

    async def turn(self) -> None:
        """Send one heartbeat and look at the others once. Raises `StoreUnavailable`."""
        began = boottime()
        own = await self._members.beat(self._report())
        if own is None:
            return self._lose(Loss.TAKEN_OVER)
        self._renewed_at = began
        self._heard(own)
        if own.state is NodeState.REMOVED:
            return self._lose(Loss.REMOVED)
        await self._look()

    async def _look(self) -> None:
        async with self._looking:  # an older look must not be applied after a newer one
            found = await self._members.read()
            due = self._observer.look(found, self.clock.now())
            for hear in self.on_read.hearers:
                hear(found)
        if due and self._taking_over is None:  # a task, to not delay heartbeats
            self._taking_over = asyncio.ensure_future(self._take_over(due))

    def _tell_not_stored(self, error: StoreUnavailable) -> None:
        """Log the first failure, and then one every `TOLD_AGAIN_S` seconds."""
        now, told_at = self.clock.now(), self._told_not_stored_at
        if told_at is None or now - told_at >= TOLD_AGAIN_S:
            self._told_not_stored_at = now
            _log.warning(f"no heartbeat was stored: {error}")

    def _tell_stored(self) -> None:
        if self._told_not_stored_at is not None:
            self._told_not_stored_at = None
            _log.info("heartbeats are stored again")

    def _report(self) -> Report:
        """This node's load, and its own state."""
        times = self.times
        shown = (times.beat_s, times.fence_s, times.end_s, times.reap_s)
        return msgspec.structs.replace(self._load(), lag_s=round(self._lag_s(), 1), times=shown)

    async def settled(self) -> None:
        """Wait until no take-over is in progress."""
        if self._taking_over is not None:
            await asyncio.wait([self._taking_over])

    async def all(self) -> Sequence[KnownNode]:
        """See `ports.fleet.Nodes`. Reads the states from the store."""
        found = await self._members.read()
        return [self._known(one) for one in found if one.is_member]

    async def tell_members(self) -> None:
        """Read the members and notify `on_read`, without looking for lost nodes. Raises
        `StoreUnavailable`.
        """
        members = [known.member for known in await self.all()]
        for hear in self.on_read.hearers:
            hear(members)

    async def set_state(self, name: str, state: NodeState) -> KnownNode:
        """See `ports.fleet.Nodes`. This node applies the change at once, whichever node it
        affects.
        """
        changed = await self._members.set_state(name, state)
        if changed is None:
            raise NotFound("there is no node of this name")
        if changed.state is not state:
            raise Conflict("the node was removed from the fleet, and stays so")
        if name == self.name:
            self._heard(changed)
        with contextlib.suppress(StoreUnavailable):  # the next heartbeat reads the states again
            await self._look()
        return self._known(changed)

    def _known(self, member: Member) -> KnownNode:
        unmoved_s = self._observer.unmoved_s(member, self.clock.now())
        is_own = member.name == self.name
        should_beat = member.is_there and member.state is not NodeState.REMOVED and not is_own
        is_silent = should_beat and unmoved_s >= self.times.fence_s
        return KnownNode(member=member, unmoved_s=unmoved_s, is_own=is_own, is_silent=is_silent)

    async def leave(self) -> None:
        """The last step of this node, after it has ended its instances. Never raises: if the store
        fails, others wait for the reap time.
        """
        if self.lost is not None:
            return
        try:
            await self._members.leave()
        except StoreUnavailable as error:
            _log.warning(f"other nodes take over only after the reap time: {error}")

    async def _take_over(self, due: Sequence[Member]) -> None:
        """Take nodes over one after the other. A failed take-over is retried at the next look."""
        try:
            for seen in due:
                taken = await self._members.take_over(seen)
                if taken is not None:
                    self._has_taken_over(seen, taken)
        except StoreUnavailable as error:
            _log.warning(f"a node could not be taken over yet: {error}")
        except Exception:
            _log.exception("a node could not be taken over; retrying")
        finally:
            self._taking_over = None

    def _has_taken_over(self, seen: Member, taken: TakenOver) -> None:
        self.taken_over += 1
        metrics.count_take_over()
        _log.warning(
            "a node was taken over",
            node=taken.name,
            presence=seen.presence.value,
            calls=taken.calls,
            work=taken.work,
            deliveries=taken.deliveries,
            answers=taken.answers,
        )

    def _heard(self, own: Member) -> None:
        if own.state is not self.state:
            self.state = own.state
            for hear in self.on_state.hearers:
                hear(own.state)

    def _lose(self, why: Loss) -> None:
        self.lost = why
        _log.error(f"this node ends: {why}")
        for hear in self.on_lost.hearers:
            hear(why)
