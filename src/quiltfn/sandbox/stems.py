"""Stem cells: sandboxes that have served nobody and can become an instance of any fitting version.

Rule 1: one leaves the stock once and never comes back; what has been an instance is destroyed.
Rule 2: making one never holds up a call: it waits until nobody has asked for a sandbox for a
moment, and one is made at a time.
Rule 3: without any the next sandbox is simply made, as if there were no stock.

How many there are of a kind follows what was asked for: `per_runtime` of each that was wanted in
the last ten minutes, more where more were wanted at once, none of what nobody wants any more, and
all together within a share of the memory that instances may hold, of which they count a part.
"""

import asyncio
import contextlib
from collections import deque
from collections.abc import Callable, Coroutine
from dataclasses import dataclass, field

import structlog

from quiltfn.model.memory import Memory
from quiltfn.model.runtime import Kind, idle_mib
from quiltfn.model.version import VersionSpec
from quiltfn.ports import Clock, Sandbox, SandboxFailed
from quiltfn.sandbox.client import LauncherSandboxes, Mould, Size
from quiltfn.sandbox.guest import GuestSandbox

_log = structlog.get_logger("quiltfn.stems")
CALM_S = 0.03
# What could not be made is tried again after that, and after twice as long each further time.
RETRY_S, RETRY_MOST_S = 5.0, 60.0
FORGOTTEN_AFTER_S = 600.0
BURST_S = 1.0
MOST_OF_A_MOULD = 16
# Of all the moulds that tenants think up: each cell takes one of the machine's uid ranges, which no
# tenant's quota counts.
MOST_OF_TENANTS = 192
# All of them together, of what instances may hold; and how long none is made after some were given
# up for the memory that they had.
STOCK_SHARE = 0.07
BARRED_S = 10.0
BASE = Size()


@dataclass(slots=True)
class _Shelf:
    """The stem cells of one mould. `asked`: when sandboxes of it were wanted, the last second's.
    `failures`: attempts in a row that failed; the next one is made at `retry_at` or later.
    """

    ready: deque[GuestSandbox] = field(default_factory=deque)
    asked: deque[float] = field(default_factory=deque)
    wanted_at: float = 0.0
    most_at_once: int = 0
    failures: int = 0
    retry_at: float = 0.0


class StemSandboxes:
    """`ports.Sandboxes` with a stock. `start` it and `aclose` it."""

    def __init__(
        self, source: LauncherSandboxes, clock: Clock, per_runtime: int, memory: Memory
    ) -> None:
        self._source, self._clock = source, clock
        self._per_runtime, self._memory = per_runtime, memory
        self._shelves: dict[Mould, _Shelf] = {}
        self._last_asked = 0.0
        self._barred_until = 0.0
        self._stir = asyncio.Event()
        self._filler: asyncio.Task[None] | None = None
        self._ending: set[asyncio.Task[None]] = set()

    def start(self) -> None:
        if self._per_runtime:
            self._filler = asyncio.ensure_future(self._fill())

    async def aclose(self) -> None:
        """Ends every stem cell."""
        if self._filler is not None:
            self._filler.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._filler
        shelves, self._shelves = list(self._shelves.values()), {}
        await asyncio.gather(*(one.destroy() for shelf in shelves for one in shelf.ready))
        await asyncio.gather(*self._ending)

    def count(self) -> int:
        """How many there are."""
        return sum(len(shelf.ready) for shelf in self._shelves.values())

    async def why_not(self) -> str | None:
        """Why no sandbox can be made, if that is so."""
        return await self._source.why_not()

    def images(self) -> frozenset[str]:
        """The digests of the images that they show."""
        return frozenset(
            mould.image
            for mould, shelf in self._shelves.items()
            if mould.image is not None and shelf.ready
        )

    async def create(self, spec: VersionSpec) -> Sandbox:
        mould = Mould.of(spec.runtime_snapshot)
        shelf = self._note(mould, is_asked=True)
        while shelf.ready:
            # The oldest: its interpreter has certainly started.
            stem = shelf.ready.popleft()
            self._count(-cost(mould))  # from here on it counts as what it becomes
            if not stem.is_alive:
                continue
            stem.watch(_nothing, _nothing)
            try:
                if Size.of(spec) != BASE:
                    await stem.limit(spec)
            except BaseException as error:
                await stem.destroy()
                if not isinstance(error, SandboxFailed):
                    raise
                _log.warning("a stem cell was of no use", reason=str(error))
                break
            return stem
        return await self._source.make(mould, Size.of(spec))

    def expect(self, spec: VersionSpec) -> None:
        """A version of this content is there: sandboxes for it may be wanted any moment."""
        self._note(Mould.of(spec.runtime_snapshot), is_asked=False)

    def give_up(self, mib: float, freed: Callable[[], None]) -> None:
        """Those of the kind that there are most of go first, and none is made for a while."""
        self._barred_until = self._clock.now() + BARRED_S
        gone: list[GuestSandbox] = []
        leaving = 0.0
        while leaving < mib:
            filled = [one for one in self._shelves.items() if one[1].ready]
            if not filled:
                break
            mould, shelf = max(filled, key=lambda one: len(one[1].ready))
            gone.append(shelf.ready.popleft())
            leaving += cost(mould)
        self._memory.stock_mib -= leaving
        self._memory.leaving_mib += leaving
        if gone:
            self._end_later(self._end(gone, leaving, freed))

    # The stock -------------------------------------------------------------------------------

    def _note(self, mould: Mould, *, is_asked: bool) -> _Shelf:
        now = self._clock.now()
        shelf = self._shelves.setdefault(mould, _Shelf())
        shelf.wanted_at = now
        if is_asked:
            shelf.retry_at = 0.0  # whoever asked makes one himself, or is told why there is none
            self._last_asked = now
            shelf.asked.append(now)
            while shelf.asked[0] < now - BURST_S:
                shelf.asked.popleft()
            shelf.most_at_once = max(shelf.most_at_once, len(shelf.asked))
        self._stir.set()
        return shelf

    async def _fill(self) -> None:
        """Until it is cancelled: the next stem cell that is missing, whenever it is calm."""
        while True:
            self._stir.clear()
            calm = self._last_asked + CALM_S - self._clock.now()
            if calm > 0:
                await asyncio.sleep(calm)
                continue
            mould = self._missing()
            if mould is not None:
                await self._add(mould)
                continue
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(self._rest()):
                    await self._stir.wait()
            await self._forget()

    def _rest(self) -> float:
        """How long there is nothing to do, unless something happens."""
        now = self._clock.now()
        retries = [shelf.retry_at - now for shelf in self._shelves.values() if shelf.failures]
        return max(CALM_S, min([FORGOTTEN_AFTER_S / 10, *retries]))

    async def _end(self, stems: list[GuestSandbox], mib: float, freed: Callable[[], None]) -> None:
        await asyncio.gather(*(one.destroy() for one in stems))
        self._memory.leaving_mib -= mib
        self._memory.count(-mib)
        freed()

    def _end_later(self, ending: Coroutine[None, None, None]) -> None:
        task = asyncio.ensure_future(ending)
        self._ending.add(task)
        task.add_done_callback(self._ending.discard)

    def _count(self, mib: float) -> None:
        self._memory.stock_mib += mib
        self._memory.count(mib)

    def _missing(self) -> Mould | None:
        """What the stock lacks most, if it lacks anything that it has room for."""
        if self._memory.waiting or self._clock.now() < self._barred_until:
            return None
        now, most = self._clock.now(), STOCK_SHARE * self._memory.budget_mib
        of_tenants = sum(
            len(shelf.ready) for mould, shelf in self._shelves.items() if not mould.is_plain
        )
        lacking = [
            (self._target(shelf) - len(shelf.ready), mould)
            for mould, shelf in self._shelves.items()
            if shelf.retry_at <= now
            and (mould.is_plain or of_tenants < MOST_OF_TENANTS)
            and self._memory.stock_mib + cost(mould) <= most
            and self._memory.fits(cost(mould))
        ]
        count, mould = max(lacking, key=lambda one: one[0], default=(0, None))
        return mould if count > 0 else None

    def _target(self, shelf: _Shelf) -> int:
        return min(MOST_OF_A_MOULD, max(self._per_runtime, shelf.most_at_once))

    async def _add(self, mould: Mould) -> None:
        self._memory.count(cost(mould))  # while it is made, too
        try:
            stem = await self._source.make(mould, BASE)
        except BaseException as error:
            self._memory.count(-cost(mould))
            if not isinstance(error, Exception):
                raise
            # Whatever it was, the stock goes on: descriptors that were used up come back. Whoever
            # needs one meanwhile is told by the attempt that is made for him.
            _log.warning("a stem cell could not be made", reason=str(error) or repr(error))
            self._put_off(mould)
            return
        stem.prepare(mould.kind)
        shelf = self._shelves.setdefault(mould, _Shelf())
        shelf.failures = 0
        shelf.ready.append(stem)
        self._memory.stock_mib += cost(mould)
        stem.watch(_nothing, lambda: self._lost(mould, stem))

    def _put_off(self, mould: Mould) -> None:
        shelf = self._shelves.get(mould)
        if shelf is not None:
            shelf.retry_at = self._clock.now() + min(RETRY_S * 2**shelf.failures, RETRY_MOST_S)
            shelf.failures = min(shelf.failures + 1, 10)

    def _lost(self, mould: Mould, stem: GuestSandbox) -> None:
        shelf = self._shelves.get(mould)
        if shelf is not None and stem in shelf.ready:
            shelf.ready.remove(stem)
            self._count(-cost(mould))
            self._end_later(stem.destroy())
            self._stir.set()

    async def _forget(self) -> None:
        """Lets go of what nobody has wanted for long."""
        now = self._clock.now()
        old = [
            mould
            for mould, shelf in self._shelves.items()
            if now - shelf.wanted_at >= FORGOTTEN_AFTER_S
        ]
        gone = [(mould, self._shelves.pop(mould)) for mould in old]
        ending = (one.destroy() for _, shelf in gone for one in shelf.ready)
        for error in await asyncio.gather(*ending, return_exceptions=True):
            if isinstance(error, Exception):
                _log.warning("a stem cell could not be ended", reason=str(error))
        self._count(-sum(cost(mould) * len(shelf.ready) for mould, shelf in gone))


def cost(mould: Mould) -> float:
    """What one costs while it waits, in MiB: the interpreter only of a kind that is prepared."""
    started = Kind.PYTHON if mould.kind is Kind.PYTHON else Kind.SHELL
    return idle_mib(started, mould.isolation)


def _nothing() -> None:
    pass
