"""LostCalls: handles invocations whose node was lost before it responded.

Their callers know their ids. The records come from the node itself, or from the one that takes it
over; but an invocation may have failed to reach the node, or the node's journal. So the node that
forwarded an invocation records it as `interrupted` if the store has no record, and the other node
is gone or responds that it doesn't know the invocation.
"""

import asyncio
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass

import structlog

from quiltfn.model.errors import StoreUnavailable
from quiltfn.model.invocation import Invocation
from quiltfn.model.member import Member, Presence
from quiltfn.ports import Clock
from quiltfn.store.calls.journal import SpoolJournal

# Above this number, the oldest are dropped.
LOST_MAX = 10_000
_log = structlog.get_logger("quiltfn.fleet")

# Whether a node knows of an invocation that is not in the store; None: the node does not respond.
AskNode = Callable[[str, str], Awaitable[bool | None]]


@dataclass(slots=True, eq=False)
class _Lost:
    """`record`: stored as the end of the invocation, unless it has another record; `look_at`: when
    to ask its node.
    """

    node: str
    record: Invocation
    look_at: float


class LostCalls:
    """Call `read` with every list of members. `patience_s`: the time until a node is first asked,
    and between further requests. By then, data that was sent to the node has arrived.
    """

    def __init__(
        self, journal: SpoolJournal, clock: Clock, ask: AskNode, patience_s: float
    ) -> None:
        self._journal, self._clock, self._ask = journal, clock, ask
        self._patience_s = patience_s
        self._there: Mapping[str, Member] = {}
        self._lost: list[_Lost] = []
        self._writing: asyncio.Task[None] | None = None

    def add(self, node: str, record: Invocation) -> None:
        """`record` is stored unless its invocation, which was sent to the node, has another."""
        self._lost.append(_Lost(node, record, self._clock.now() + self._patience_s))
        if len(self._lost) > LOST_MAX:
            _log.warning("too many calls were lost with their nodes: the oldest are forgotten")
            del self._lost[: len(self._lost) - LOST_MAX]

    def read(self, members: Sequence[Member]) -> None:
        """Start writing the records that are due."""
        now = self._clock.now()
        self._there = {one.name: one for one in members if one.presence is Presence.PRESENT}
        if not self._lost or self._writing is not None:
            return
        due = [one for one in self._lost if one.look_at <= now or one.node not in self._there]
        if due:
            self._writing = asyncio.ensure_future(self._write(due))

    async def _write(self, due: Sequence[_Lost]) -> None:
        silent: set[str] = set()
        try:
            for lost in due:
                try:
                    is_known = await self._settled(lost, silent)
                except StoreUnavailable:
                    raise
                except Exception:
                    _log.exception("a call that was lost with its node has no record")
                    is_known = True
                if is_known and lost in self._lost:
                    self._lost.remove(lost)
        except StoreUnavailable as error:
            _log.warning(f"calls that were lost with their node are not written yet: {error}")
        finally:
            self._writing = None

    async def _settled(self, lost: _Lost, silent: set[str]) -> bool:
        """Whether the invocation has a record now. `silent`: the nodes that have not responded."""
        record = lost.record
        if lost.node in self._there:
            lost.look_at = self._clock.now() + self._patience_s
            if lost.node in silent:
                return False
            knows = await self._ask(lost.node, record.invocation_id)
            if knows is None:
                silent.add(lost.node)
            if knows is not False:
                return False
        found = await self._journal.outline(record.function_id, record.invocation_id)
        if found is None:
            self._journal.closed(record)
        return True

    async def aclose(self) -> None:
        """Stop writing. Do not call `read` after that."""
        if self._writing is not None:
            self._writing.cancel()
            await asyncio.wait([self._writing])
