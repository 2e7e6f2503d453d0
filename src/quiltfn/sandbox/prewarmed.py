"""Prewarmed sandboxes: unused ones, which any version with their template can use.

Rule 1: a sandbox is taken once and never put back; a former instance is destroyed.
Rule 2: prewarming never delays an invocation: sandboxes are created one at a time, and only after a
moment without requests for one.
Rule 3: if none is left, the next sandbox is created on demand.

The stock of a template follows demand: `per_template` for each template that was used in the last
ten minutes, more if more sandboxes were taken at once, none for other templates. All prewarmed
sandboxes together stay within a share of the instances' memory budget, and count against it.
"""

import asyncio
import contextlib
from collections import deque
from collections.abc import Callable

import msgspec
import structlog

from quiltfn.base.task_group import TaskGroup
from quiltfn.model.memory import Memory
from quiltfn.model.runtime import Kind, idle_mib
from quiltfn.model.version import VersionSpec
from quiltfn.ports import Clock, Sandbox, SandboxFailed
from quiltfn.sandbox.client import LauncherSandboxes, Limits, SandboxTemplate
from quiltfn.sandbox.guest import GuestSandbox

_log = structlog.get_logger("quiltfn.sandbox")
# Seconds without requests for a sandbox before the next one is prewarmed.
CALM_S = 0.03
# The delay before a failed attempt is repeated; it doubles with each further failure.
RETRY_S, RETRY_MOST_S = 5.0, 60.0
UNUSED_AFTER_S = 600.0
BURST_S = 1.0
MOST_OF_A_TEMPLATE = 16
# For all templates of tenants together: each sandbox takes one of the machine's uid ranges, which
# no tenant's quota counts.
MOST_OF_TENANTS = 192
# The maximum share of the instances' memory budget; and the seconds without prewarming after
# sandboxes were ended because memory was short.
MEMORY_SHARE = 0.07
PAUSE_S = 10.0
BASE = Limits()


class _Stock(msgspec.Struct):
    """The prewarmed sandboxes of one template.

    `asked`: the times of requests for sandboxes within the last second. `failures`: consecutive
    failed attempts; the next is made at `retry_at` or later.
    """

    ready: deque[GuestSandbox] = msgspec.field(default_factory=deque)
    asked: deque[float] = msgspec.field(default_factory=deque)
    used_at: float = 0.0
    most_at_once: int = 0
    failures: int = 0
    retry_at: float = 0.0


class PrewarmedSandboxes:
    """`ports.Sandboxes` with a warm stock. Call `start` and, at the end, `aclose`."""

    def __init__(
        self, source: LauncherSandboxes, clock: Clock, per_template: int, memory: Memory
    ) -> None:
        self._source, self._clock = source, clock
        self._per_template, self._memory = per_template, memory
        self._stocks: dict[SandboxTemplate, _Stock] = {}
        self._last_asked = 0.0
        self._paused_until = 0.0
        self._changed = asyncio.Event()
        self._filler: asyncio.Task[None] | None = None
        self._ending = TaskGroup()

    def end_by(self, at: float) -> None:
        self._source.end_by(at)

    def start(self) -> None:
        if self._per_template:
            self._filler = asyncio.ensure_future(self._fill())

    async def aclose(self) -> None:
        """Ends every prewarmed sandbox."""
        if self._filler is not None:
            self._filler.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._filler
        stocks, self._stocks = list(self._stocks.values()), {}
        await asyncio.gather(*(one.destroy() for stock in stocks for one in stock.ready))
        await self._ending.join()

    def count(self) -> int:
        """The number of prewarmed sandboxes."""
        return sum(len(stock.ready) for stock in self._stocks.values())

    async def why_not(self) -> str | None:
        """The reason if no sandbox can be created."""
        return await self._source.why_not()

    def images(self) -> frozenset[str]:
        """The digests of the images that prewarmed sandboxes show."""
        return frozenset(
            image
            for template, stock in self._stocks.items()
            if stock.ready
            for image in template.images
        )

    async def create(self, spec: VersionSpec) -> Sandbox:
        template = SandboxTemplate.of(spec.runtime_snapshot)
        stock = self._note(template, is_asked=True)
        while stock.ready:
            # The oldest first, since its interpreter has most likely started.
            sandbox = stock.ready.popleft()
            self._count(-cost(template))  # from here on, the sandbox counts as an instance
            if not sandbox.is_alive:
                continue
            sandbox.watch(_nothing, _nothing)
            try:
                if Limits.of(spec) != BASE:
                    await sandbox.limit(spec)
            except BaseException as error:
                await sandbox.destroy()
                if not isinstance(error, SandboxFailed):
                    raise
                _log.warning("a prewarmed sandbox could not be limited", reason=str(error))
                break
            return sandbox
        return await self._source.make(template, Limits.of(spec))

    def expect(self, spec: VersionSpec) -> None:
        """Announces a version: sandboxes for it may be needed soon."""
        self._note(SandboxTemplate.of(spec.runtime_snapshot), is_asked=False)

    def give_up(self, mib: float, freed: Callable[[], None]) -> None:
        """Ends sandboxes, those of the largest stock first, and pauses prewarming for a while."""
        self._paused_until = self._clock.now() + PAUSE_S
        gone: list[GuestSandbox] = []
        leaving = 0.0
        while leaving < mib:
            filled = [one for one in self._stocks.items() if one[1].ready]
            if not filled:
                break
            template, stock = max(filled, key=lambda entry: len(entry[1].ready))
            gone.append(stock.ready.popleft())
            leaving += cost(template)
        self._memory.prewarm(-leaving)
        self._memory.leave(leaving)
        if gone:
            self._ending.spawn(self._end(gone, leaving, freed))

    # Filling the warm stock --------------------------------------------------------------------

    def _note(self, template: SandboxTemplate, *, is_asked: bool) -> _Stock:
        now = self._clock.now()
        # Without prewarming, nothing would drop entries, and each upload is a new template.
        stock = self._stocks.setdefault(template, _Stock()) if self._per_template else _Stock()
        stock.used_at = now
        if is_asked:
            stock.retry_at = 0.0  # the caller's own attempt shows whether sandboxes can be created
            self._last_asked = now
            stock.asked.append(now)
            while stock.asked[0] < now - BURST_S:
                stock.asked.popleft()
            stock.most_at_once = max(stock.most_at_once, len(stock.asked))
        self._changed.set()
        return stock

    async def _fill(self) -> None:
        """Until cancelled, creates missing sandboxes one by one while no invocation needs any."""
        while True:
            self._changed.clear()
            calm = self._last_asked + CALM_S - self._clock.now()
            if calm > 0:
                await asyncio.sleep(calm)
                continue
            template = self._missing()
            if template is not None:
                await self._add(template)
                continue
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(self._pause()):
                    await self._changed.wait()
            await self._drop_unused()

    def _pause(self) -> float:
        """Maximum seconds to wait for an event."""
        now = self._clock.now()
        retries = [stock.retry_at - now for stock in self._stocks.values() if stock.failures]
        return max(CALM_S, min([UNUSED_AFTER_S / 10, *retries]))

    async def _end(
        self, sandboxes: list[GuestSandbox], mib: float, freed: Callable[[], None]
    ) -> None:
        await asyncio.gather(*(one.destroy() for one in sandboxes))
        self._memory.leave(-mib)
        self._memory.count(-mib)
        freed()

    def _count(self, mib: float) -> None:
        self._memory.prewarm(mib)
        self._memory.count(mib)

    def _missing(self) -> SandboxTemplate | None:
        """Of the templates that fit into the memory, the one that lacks the most sandboxes."""
        if self._memory.waiting or self._clock.now() < self._paused_until:
            return None
        now, most = self._clock.now(), MEMORY_SHARE * self._memory.budget_mib
        of_tenants = sum(
            len(stock.ready) for template, stock in self._stocks.items() if not template.is_plain
        )
        lacking = [
            (self._target(stock) - len(stock.ready), template)
            for template, stock in self._stocks.items()
            if stock.retry_at <= now
            and (template.is_plain or of_tenants < MOST_OF_TENANTS)
            and self._memory.prewarmed_mib + cost(template) <= most
            and self._memory.fits(cost(template))
        ]
        count, template = max(lacking, key=lambda entry: entry[0], default=(0, None))
        return template if count > 0 else None

    def _target(self, stock: _Stock) -> int:
        return min(MOST_OF_A_TEMPLATE, max(self._per_template, stock.most_at_once))

    async def _add(self, template: SandboxTemplate) -> None:
        self._memory.count(cost(template))  # counts while it is created, too
        try:
            sandbox = await self._source.make(template, BASE)
        except BaseException as error:
            self._memory.count(-cost(template))
            if not isinstance(error, Exception):
                raise
            # Filling continues after any error: if descriptors ran out, some become free again. A
            # caller that needs a sandbox meanwhile creates it, and gets the error if that fails.
            _log.warning(
                "a prewarmed sandbox could not be created", reason=str(error) or repr(error)
            )
            self._put_off(template)
            return
        sandbox.prepare(template.kind, template.interpreter)
        stock = self._stocks.setdefault(template, _Stock())
        stock.failures = 0
        stock.ready.append(sandbox)
        self._memory.prewarm(cost(template))
        sandbox.watch(_nothing, lambda: self._lost(template, sandbox))

    def _put_off(self, template: SandboxTemplate) -> None:
        stock = self._stocks.get(template)
        if stock is not None:
            stock.retry_at = self._clock.now() + min(RETRY_S * 2**stock.failures, RETRY_MOST_S)
            stock.failures = min(stock.failures + 1, 10)

    def _lost(self, template: SandboxTemplate, sandbox: GuestSandbox) -> None:
        stock = self._stocks.get(template)
        if stock is not None and sandbox in stock.ready:
            stock.ready.remove(sandbox)
            self._count(-cost(template))
            self._ending.spawn(sandbox.destroy())
            self._changed.set()

    async def _drop_unused(self) -> None:
        """Destroys the stock of templates that were unused for long."""
        now = self._clock.now()
        old = [
            template
            for template, stock in self._stocks.items()
            if now - stock.used_at >= UNUSED_AFTER_S
        ]
        gone = [(template, self._stocks.pop(template)) for template in old]
        ending = (one.destroy() for _, stock in gone for one in stock.ready)
        for error in await asyncio.gather(*ending, return_exceptions=True):
            if isinstance(error, Exception):
                _log.warning("a prewarmed sandbox could not be ended", reason=str(error))
        self._count(-sum(cost(template) * len(stock.ready) for template, stock in gone))


def cost(template: SandboxTemplate) -> float:
    """The memory of one prewarmed sandbox in MiB; some contain an interpreter."""
    started = Kind.PYTHON if template.kind is Kind.PYTHON else Kind.SHELL
    return idle_mib(started, template.isolation)


def _nothing() -> None:
    pass
