"""Stem cells: sandboxes that have served nobody and can become an instance of any fitting version.

Rule 1: one leaves the stock once and never comes back; what has been an instance is destroyed.
Rule 2: making one never holds up a call: it waits until nobody has asked for a sandbox for a
moment, and one is made at a time.
Rule 3: without any the next sandbox is simply made, as if there were no stock.

How many there are of a kind follows what was asked for: `per_runtime` of each that was wanted in
the last ten minutes, more where more were wanted at once, none of what nobody wants any more, and
all together within a bound of memory.
"""

import asyncio
import contextlib
from collections import deque
from dataclasses import dataclass, field

import structlog

from quiltfn.model.runtime import Kind
from quiltfn.model.version import Content
from quiltfn.ports import Clock, Sandbox, SandboxFailed
from quiltfn.sandbox.client import LauncherSandboxes, Mould, Size
from quiltfn.sandbox.guest import GuestSandbox

_log = structlog.get_logger("quiltfn.stems")
CALM_S = 0.03
RETRY_S = 5.0
FORGOTTEN_AFTER_S = 600.0
BURST_S = 1.0
MOST_OF_A_MOULD = 16
# What one costs while it waits, in MiB, by what is started in it. Measured: bench/memory.py.
COST_MIB = {Kind.PYTHON: 6.0}
OTHERS_COST_MIB = 0.6
BASE = Size()


@dataclass(slots=True)
class _Shelf:
    """The stem cells of one mould. `asked`: when sandboxes of it were wanted, the last second's."""

    ready: deque[GuestSandbox] = field(default_factory=deque)
    asked: deque[float] = field(default_factory=deque)
    wanted_at: float = 0.0
    most_at_once: int = 0


class StemSandboxes:
    """`ports.Sandboxes` with a stock. `start` it and `aclose` it."""

    def __init__(
        self, source: LauncherSandboxes, clock: Clock, per_runtime: int, memory_mib: float
    ) -> None:
        self._source, self._clock = source, clock
        self._per_runtime, self._memory_mib = per_runtime, memory_mib
        self._shelves: dict[Mould, _Shelf] = {}
        self._last_asked = 0.0
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

    def count(self) -> int:
        """How many there are."""
        return sum(len(shelf.ready) for shelf in self._shelves.values())

    def images(self) -> frozenset[str]:
        """The digests of the images that they show."""
        return frozenset(
            mould.image
            for mould, shelf in self._shelves.items()
            if mould.image is not None and shelf.ready
        )

    async def create(self, content: Content) -> Sandbox:
        mould = Mould.of(content.pinned)
        shelf = self._note(mould, is_asked=True)
        while shelf.ready:
            # The oldest: its interpreter has certainly started.
            stem = shelf.ready.popleft()
            if not stem.is_alive:
                continue
            stem.watch(_nothing, _nothing)
            try:
                if Size.of(content) != BASE:
                    await stem.limit(content)
            except BaseException as error:
                await stem.destroy()
                if not isinstance(error, SandboxFailed):
                    raise
                _log.warning("a stem cell was of no use", reason=str(error))
                break
            return stem
        return await self._source.make(mould, Size.of(content))

    def expect(self, content: Content) -> None:
        """A version of this content is there: sandboxes for it may be wanted any moment."""
        self._note(Mould.of(content.pinned), is_asked=False)

    # The stock -------------------------------------------------------------------------------

    def _note(self, mould: Mould, *, is_asked: bool) -> _Shelf:
        now = self._clock.now()
        shelf = self._shelves.setdefault(mould, _Shelf())
        shelf.wanted_at = now
        if is_asked:
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
                async with asyncio.timeout(FORGOTTEN_AFTER_S / 10):
                    await self._stir.wait()
            await self._forget()

    def _missing(self) -> Mould | None:
        """What the stock lacks most, if it lacks anything that it has room for."""
        spent = sum(cost(mould) * len(shelf.ready) for mould, shelf in self._shelves.items())
        lacking = [
            (self._target(shelf) - len(shelf.ready), mould)
            for mould, shelf in self._shelves.items()
            if spent + cost(mould) <= self._memory_mib
        ]
        count, mould = max(lacking, key=lambda one: one[0], default=(0, None))
        return mould if count > 0 else None

    def _target(self, shelf: _Shelf) -> int:
        return min(MOST_OF_A_MOULD, max(self._per_runtime, shelf.most_at_once))

    async def _add(self, mould: Mould) -> None:
        try:
            stem = await self._source.make(mould, BASE)
        except SandboxFailed as error:
            # Whoever needs one will be told by the attempt that is made for him. Until somebody
            # does, its kind is not tried again: its image may be gone.
            _log.warning("a stem cell could not be made", reason=str(error))
            if not self._shelves[mould].ready:
                del self._shelves[mould]
            await asyncio.sleep(RETRY_S)
            return
        stem.prepare(mould.kind)
        shelf = self._shelves.setdefault(mould, _Shelf())
        shelf.ready.append(stem)
        stem.watch(_nothing, lambda: self._lost(mould, stem))

    def _lost(self, mould: Mould, stem: GuestSandbox) -> None:
        shelf = self._shelves.get(mould)
        if shelf is not None and stem in shelf.ready:
            shelf.ready.remove(stem)
            task = asyncio.ensure_future(stem.destroy())
            self._ending.add(task)
            task.add_done_callback(self._ending.discard)
            self._stir.set()

    async def _forget(self) -> None:
        """Lets go of what nobody has wanted for long."""
        now = self._clock.now()
        old = [
            mould
            for mould, shelf in self._shelves.items()
            if now - shelf.wanted_at >= FORGOTTEN_AFTER_S
        ]
        gone = [self._shelves.pop(mould) for mould in old]
        await asyncio.gather(*(one.destroy() for shelf in gone for one in shelf.ready))


def cost(mould: Mould) -> float:
    """What one costs while it waits, in MiB."""
    return COST_MIB.get(mould.kind, OTHERS_COST_MIB)


def _nothing() -> None:
    pass
