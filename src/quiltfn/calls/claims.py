"""Claims: asynchronous invocations that this node has claimed from the store and not begun.

They are claimed in slices, so that one commit serves many of them. If the journal is strict, only
work that can begin at once is claimed, and it counts as begun once it is claimed.
"""

import asyncio
from collections.abc import Iterable, Sequence

import msgspec

from quiltfn.model.dispatch import slice_size
from quiltfn.model.errors import OutcomeUnknown, StoreUnavailable
from quiltfn.model.invocation import Invocation
from quiltfn.ports import Clock
from quiltfn.ports.work import CLAIM_MAX_BYTES, ClaimedWork
from quiltfn.store.calls.work import SqlWork

# Maximum bytes of inputs in memory, including those that claims in progress may add. Above this
# maximum, one claim at a time is made, of one item that can begin; other work is released.
HELD_MAX_BYTES = 64 * 1024 * 1024
RELEASED_AT_ONCE = 500


class Backlog(msgspec.Struct, eq=False):
    """The work of one function. `next_due_ms`: when the first item in the store is due; None:
    nothing waits. `alarm_ms`: when the timer for it is due, if it was set. `held`: items that are
    claimed and not begun, by id. `running`: ids of attempts; `launched`: the number of attempts
    that have not asked for an instance yet. `claim`: the claim in progress. `returning`: the number
    of releases in progress. `begun`: the number of attempts begun since the last claim, at
    `claimed_at` (monotonic seconds). `is_uncertain`: the outcome of a claim or a release is
    unknown, so that no attempt begins before `Claims.make_sure`.
    """

    function_id: str
    tenant_id: str
    next_due_ms: int | None = None
    alarm_ms: int | None = None
    held: dict[str, ClaimedWork] = msgspec.field(default_factory=dict)
    running: set[str] = msgspec.field(default_factory=set)
    launched: int = 0
    claim: "asyncio.Task[None] | None" = None
    returning: int = 0
    begun: int = 0
    claimed_at: float = 0.0
    is_uncertain: bool = False

    @property
    def is_empty(self) -> bool:
        """Whether this backlog can be dropped without a loss of information."""
        is_busy = self.held or self.running or self.claim or self.returning or self.is_uncertain
        return self.next_due_ms is None and not is_busy

    def first_due_ms(self) -> int | None:
        """When the next item to begin is due."""
        for work in self.held.values():
            return work.due_at_ms
        return self.next_due_ms

    def waits_until(self, due_at_ms: int | None) -> None:
        """Note that an item which is due then waits in the store."""
        if due_at_ms is not None and (self.next_due_ms is None or due_at_ms < self.next_due_ms):
            self.next_due_ms = due_at_ms


class Claims:
    """Claims work, holds it, and releases it."""

    def __init__(self, store: SqlWork, clock: Clock, *, is_strict: bool) -> None:
        self._store, self._clock, self._is_strict = store, clock, is_strict
        self._held_bytes = 0
        self.under_way = 0  # claims in progress

    @property
    def is_full(self) -> bool:
        """Whether the memory for held work is used up."""
        return self._held_bytes > HELD_MAX_BYTES - CLAIM_MAX_BYTES

    @property
    def may_begin(self) -> bool:
        """Whether another claim may begin: one may always be in progress, and more if there is
        memory for their inputs.
        """
        expected = self._held_bytes + (self.under_way + 1) * CLAIM_MAX_BYTES
        return not self.under_way or expected <= HELD_MAX_BYTES

    def began(self) -> None:
        """A claim is in progress until `ended`."""
        self.under_way += 1

    def ended(self) -> None:
        """A claim has ended."""
        self.under_way -= 1

    def slice_size(self, backlog: Backlog, could_begin: int) -> int:
        """The number of items to claim now."""
        if self._is_strict:
            return could_begin
        if self.is_full:
            return 1
        took_s = max(0.001, self._clock.now() - backlog.claimed_at)
        return slice_size(backlog.begun / took_s, could_begin)

    def wants_more(self, backlog: Backlog, size: int, now_ms: int) -> bool:
        """Whether to claim more while some work is still held."""
        is_due = backlog.next_due_ms is not None and backlog.next_due_ms <= now_ms
        return is_due and not (self._is_strict or backlog.claim) and len(backlog.held) * 2 < size

    async def claim(self, backlog: Backlog, size: int, now_ms: int) -> Sequence[Invocation]:
        """Claim a slice; return the records of work that ended instead. Raises `StoreUnavailable`;
        then nothing was claimed, or the backlog is uncertain.
        """
        # Work that arrives meanwhile sets this again.
        before, backlog.next_due_ms = backlog.next_due_ms, None
        backlog.begun, backlog.claimed_at = 0, self._clock.now()
        try:
            got = await self._store.claim(
                backlog.function_id, size, now_ms, is_begun=self._is_strict
            )
        except BaseException as error:
            backlog.waits_until(before)
            backlog.is_uncertain |= isinstance(error, OutcomeUnknown)
            raise
        backlog.waits_until(got.next_due_ms)
        for work in got.work:
            self._hold(backlog, work)
        return got.ended

    def take(self, backlog: Backlog, invocation_id: str | None = None) -> ClaimedWork:
        """Remove and return a held item; None: the first."""
        work = backlog.held.pop(invocation_id or next(iter(backlog.held)))
        self._held_bytes -= work.input.size_bytes
        return work

    def take_all(self, backlog: Backlog) -> list[ClaimedWork]:
        """Remove and return everything that the backlog holds."""
        return [self.take(backlog) for _ in range(len(backlog.held))]

    async def put_back(
        self, backlog: Backlog, works: Sequence[ClaimedWork], not_before_ms: int = 0
    ) -> None:
        """Release unstarted work. This node does not claim it again before `not_before_ms`. Raises
        `StoreUnavailable`; the remaining work is held as before, except work that may have been
        released: its backlog is then uncertain.
        """
        left = list(works)
        try:
            while left:
                some = left[:RELEASED_AT_ONCE]
                await self._release(some)
                del left[: len(some)]
                for work in some:
                    backlog.waits_until(max(work.due_at_ms, not_before_ms))
        except StoreUnavailable as error:
            self._keep([(backlog, work) for work in left], error)
            raise

    async def release_all(self, backlogs: Iterable[Backlog]) -> None:
        """Release everything. Raises `StoreUnavailable`, as `put_back` does."""
        left = [(backlog, work) for backlog in backlogs for work in self.take_all(backlog)]
        try:
            while left:
                some = left[:RELEASED_AT_ONCE]
                await self._release([work for _, work in some])
                del left[: len(some)]
        except StoreUnavailable as error:
            self._keep(left, error)
            raise

    async def make_sure(self, backlog: Backlog, known: Iterable[str]) -> None:
        """Release work of an uncertain backlog that the store has as claimed, but that is neither
        held nor `known`. `known`: attempts in progress, and those whose end was not stored a moment
        ago. Raises `StoreUnavailable`; the backlog then stays uncertain.
        """
        due = await self._store.release_others(backlog.function_id, {*known, *backlog.held})
        backlog.waits_until(due)
        backlog.is_uncertain = False

    def _keep(self, left: Sequence[tuple[Backlog, ClaimedWork]], error: StoreUnavailable) -> None:
        """Hold work that was not released. Work that may have been released is not held, since
        another node may have claimed it.
        """
        uncertain = RELEASED_AT_ONCE if isinstance(error, OutcomeUnknown) else 0
        for backlog, _ in left[:uncertain]:
            backlog.is_uncertain = True
        for backlog, work in left[uncertain:]:
            self._hold(backlog, work)

    async def _release(self, works: Sequence[ClaimedWork]) -> None:
        await self._store.release([one.record.invocation_id for one in works])

    def _hold(self, backlog: Backlog, work: ClaimedWork) -> None:
        backlog.held[work.record.invocation_id] = work
        self._held_bytes += work.input.size_bytes
