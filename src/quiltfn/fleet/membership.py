"""This node among the others: it beats, sees who is gone and takes that over, and knows when it has
lost its own place.

All it decides by is in `observer.py`; here it is carried out.
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
    """Why a node has no place in the fleet any more."""

    TAKEN_OVER = "another node has taken this one over, or it was started again elsewhere"
    REMOVED = "an operator has removed this node from the fleet"


class Membership:
    """Start it with `join`, run `run` and end it with `leave`.

    `on_state`: of a new state of this node; `on_read`: of all members, after each look; `on_lost`:
    this node has no place any more, and why.
    """

    def __init__(
        self,
        members: SqlMembers,
        own: Observer,
        clock: Clock,
        lag_s: Callable[[], float] = float,
    ) -> None:
        """`lag_s`: how far this node is behind the changes of others."""
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

    def report_by(self, load: Callable[[], Report]) -> None:
        """From now on beats say how loaded this node is; before it they say that it is idle."""
        self._load = load

    def renewed_at(self) -> float:
        """When this node's place was renewed last, in seconds of CLOCK_BOOTTIME: from before the
        beat was sent, so that no other node counts from an earlier time.
        """
        return self._renewed_at

    @property
    def problem(self) -> str | None:
        """Why others may take this node for gone; None if they do not."""
        if self.lost is not None:
            return self.lost
        late_s = boottime() - self._renewed_at
        if late_s < self.times.fence_s:
            return None
        return f"no beat was stored for {late_s:.0f} s"

    def seen(self) -> Sequence[Member]:
        """All nodes as they were at the last look; none before the first one."""
        return [one.member for one in self._observer.members]

    def silent(self) -> Sequence[str]:
        """The nodes that should be there and whose beats have not moved for the fence time."""
        known = (self._known(one.member) for one in self._observer.members)
        return [one.member.name for one in known if one.is_silent]

    def show(self) -> None:
        """Puts the nodes as they were at the last look into the metrics."""
        now = self.clock.now()
        found = [one.member for one in self._observer.members if one.member.is_member]
        metrics.show_members(
            Counter(shown_state(one) for one in found),
            {one.name: self._observer.unmoved_s(one, now) for one in found if one.is_there},
        )

    async def join(self, address: str) -> None:
        """Makes this node known. Raises `NodeRemoved` and `StoreUnavailable`."""
        began = boottime()
        own = await self._members.register(address, self._report())
        self._renewed_at = began
        self._heard(own)

    async def run(self) -> None:
        """Beats and looks, until it is cancelled or has lost its place."""
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
        """One beat and one look at the others. Raises `StoreUnavailable`."""
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
        async with self._looking:  # an older look is not heard after a newer one
            found = await self._members.read()
            due = self._observer.look(found, self.clock.now())
            for hear in self.on_read.hearers:
                hear(found)
        if due and self._taking_over is None:  # beside the beats, which it must not hold up
            self._taking_over = asyncio.ensure_future(self._take_over(due))

    def _tell_not_stored(self, error: StoreUnavailable) -> None:
        """Says so at first, and now and then while it lasts."""
        now, told_at = self.clock.now(), self._told_not_stored_at
        if told_at is None or now - told_at >= TOLD_AGAIN_S:
            self._told_not_stored_at = now
            _log.warning(f"no beat was stored: {error}")

    def _tell_stored(self) -> None:
        if self._told_not_stored_at is not None:
            self._told_not_stored_at = None
            _log.info("beats are stored again")

    def _report(self) -> Report:
        """This node's load, and what it knows by itself."""
        times = self.times
        told = (times.beat_s, times.fence_s, times.end_s, times.reap_s)
        return msgspec.structs.replace(self._load(), lag_s=round(self._lag_s(), 1), times=told)

    async def settled(self) -> None:
        """Waits until no take-over is under way."""
        if self._taking_over is not None:
            await asyncio.wait([self._taking_over])

    async def all(self) -> Sequence[KnownNode]:
        """As `ports.fleet.Nodes` says: as they are in the store now."""
        found = await self._members.read()
        return [self._known(one) for one in found if one.is_member]

    async def set_state(self, name: str, state: NodeState) -> KnownNode:
        """As `ports.fleet.Nodes` says. This node acts on it at once, whichever node it is about."""
        changed = await self._members.set_state(name, state)
        if changed is None:
            raise NotFound("there is no node of this name")
        if changed.state is not state:
            raise Conflict("the node was removed from the fleet, and stays so")
        if name == self.name:
            self._heard(changed)
        with contextlib.suppress(StoreUnavailable):  # the next beat looks again
            await self._look()
        return self._known(changed)

    def _known(self, member: Member) -> KnownNode:
        unmoved_s = self._observer.unmoved_s(member, self.clock.now())
        is_own = member.name == self.name
        should_beat = member.is_there and member.state is not NodeState.REMOVED and not is_own
        is_silent = should_beat and unmoved_s >= self.times.fence_s
        return KnownNode(member=member, unmoved_s=unmoved_s, is_own=is_own, is_silent=is_silent)

    async def leave(self) -> None:
        """The last that this node does, once it has ended what it had. Never raises: where it could
        not be stored, others wait for the reap time.
        """
        if self.lost is not None:
            return
        try:
            await self._members.leave()
        except StoreUnavailable as error:
            _log.warning(f"others will wait until they take over what is left: {error}")

    async def _take_over(self, due: Sequence[Member]) -> None:
        """One after the other. What fails is due again at the next look."""
        try:
            for seen in due:
                told = await self._members.take_over(seen)
                if told is not None:
                    self._has_taken_over(seen, told)
        except StoreUnavailable as error:
            _log.warning(f"a node could not be taken over yet: {error}")
        except Exception:
            _log.exception("a node could not be taken over; it is tried again")
        finally:
            self._taking_over = None

    def _has_taken_over(self, seen: Member, told: TakenOver) -> None:
        self.taken_over += 1
        metrics.count_take_over()
        _log.warning(
            "a node was taken over",
            node=told.name,
            presence=seen.presence.value,
            calls=told.calls,
            work=told.work,
            deliveries=told.deliveries,
            answers=told.answers,
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
