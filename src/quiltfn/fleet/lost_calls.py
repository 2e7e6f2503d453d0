"""LostCalls: calls whose node was lost before it had answered.

Their callers know their ids. The records come from the node itself, or from who takes it over; but
a call may have reached it and not its journal, or may not have reached it at all. So whoever had
sent the call writes that it is `interrupted`, if there is no record of it

- once the node is gone;
- once it has started anew and been there for a while;
- where it lives on, a while after it has said that the call is not under way there.
"""

import asyncio
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass

import structlog

from quiltfn.model.errors import StoreUnavailable
from quiltfn.model.invocation import Invocation
from quiltfn.model.member import Member, Presence
from quiltfn.ports import Clock, Journal

# Beyond that the oldest are forgotten.
LOST_MAX = 10_000
# A node that has started again has its journal in the store by then.
STARTED_S = 30.0
_log = structlog.get_logger("quiltfn.fleet")

# Whether a call is under way on a node; None: the node does not answer.
AskNode = Callable[[str, str], Awaitable[bool | None]]


@dataclass(slots=True)
class _Lost:
    """`epoch`: the one that the node had when the call was sent, as far as was known; `look_at`:
    when it is looked at next, if the node lives on; `over_at`: the node's beat when it said that
    the call is not under way there.
    """

    node: str
    epoch: int
    record: Invocation
    look_at: float
    over_at: int | None = None


class LostCalls:
    """`read` it all members, again and again. `patience_s`: how long a node that lives on may take
    to store what it has begun or ended; one that does not reach the store begins nothing after it.
    """

    def __init__(self, journal: Journal, clock: Clock, ask: AskNode, patience_s: float) -> None:
        self._journal, self._clock, self._ask = journal, clock, ask
        self._patience_s = patience_s
        self._members: Mapping[str, Member] = {}
        self._since: dict[tuple[str, int], float] = {}  # when each epoch was seen first
        self._lost: list[_Lost] = []
        self._writing: asyncio.Task[None] | None = None

    def add(self, node: str, record: Invocation) -> None:
        """`record`: the end of a call that was sent to the node, if nobody knows better."""
        member = self._members.get(node)
        look_at = self._clock.now() + self._patience_s
        self._lost.append(_Lost(node, member.epoch if member else 0, record, look_at))
        if len(self._lost) > LOST_MAX:
            _log.warning("too many calls were lost with their nodes: the oldest are forgotten")
            del self._lost[: len(self._lost) - LOST_MAX]

    def read(self, members: Sequence[Member]) -> None:
        """Begins to write what is due."""
        now = self._clock.now()
        self._members = {one.name: one for one in members}
        known = {(one.name, one.epoch) for one in members}
        self._since = {one: self._since.get(one, now) for one in known}
        if self._lost and self._writing is None:
            due = [one for one in self._lost if self._is_due(one, now)]
            if due:
                self._writing = asyncio.ensure_future(self._write(due))

    def _is_due(self, lost: _Lost, now: float) -> bool:
        member = self._members.get(lost.node)
        if member is None or member.presence is not Presence.PRESENT:
            return True
        if member.epoch == lost.epoch:
            return now >= lost.look_at and member.beat != lost.over_at
        return now - self._since[member.name, member.epoch] >= STARTED_S

    async def _write(self, due: Sequence[_Lost]) -> None:
        try:
            for one in due:
                record = one.record
                if await self._may_be_under_way(one):
                    continue
                found = await self._journal.outline(record.function_id, record.invocation_id)
                if found is None:
                    self._journal.closed(record)
                self._lost.remove(one)
        except StoreUnavailable as error:
            _log.warning(f"calls that were lost with their node are not written yet: {error}")
        finally:
            self._writing = None

    async def _may_be_under_way(self, lost: _Lost) -> bool:
        """Whether the node lives and has the call, or may store something of it yet."""
        member = self._members.get(lost.node)
        if member is None or member.presence is not Presence.PRESENT:
            return False
        if member.epoch != lost.epoch or lost.over_at is not None:
            return False
        if await self._ask(lost.node, lost.record.invocation_id) is False:
            lost.over_at = member.beat
        lost.look_at = self._clock.now() + self._patience_s
        return True

    async def aclose(self) -> None:
        """Writes nothing any more."""
        if self._writing is not None:
            self._writing.cancel()
            await asyncio.wait([self._writing])
