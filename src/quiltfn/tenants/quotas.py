"""Quotas of tenants, and their GB-seconds of the day.

Usage is counted only for tenants with a limit: it is read from the statistics at the day's first
invocation, and then follows the commits that add to the statistics. So it equals the statistics,
even after a restart or a change of the clock, and costs an invocation nothing.
"""

import asyncio
import contextlib
from collections import defaultdict
from collections.abc import Callable, Collection, Mapping

import msgspec

from quiltfn.base.mirror import Mirror
from quiltfn.base.others import Others
from quiltfn.model.errors import CapacityFull, StoreUnavailable, older_node
from quiltfn.model.stats import DAY_S, FINEST_S, MINUTE_S, CallStats, Stretch, floor_to
from quiltfn.model.tenant_quota import TenantQuota
from quiltfn.ports import Clock
from quiltfn.store.calls.stats import SqlStats
from quiltfn.store.tenants.quotas import SqlQuotas
from quiltfn.tenants.admission import Admission, DayUse
from quiltfn.tenants.disabled import DisabledTenants

# Maximum number of quotas, which are in memory, with a few hundred bytes each.
QUOTAS_MAX = 100_000
# Of the usage on other nodes, only the last minutes are read often. Earlier usage is summed up
# again every RECOUNT_S, since a node that could not reach the store may add to it later.
RECENT_S, RECOUNT_S = 2 * MINUTE_S, 300.0
FOLLOWED_AT_ONCE = 50
NONE = TenantQuota()


class _Count(msgspec.Struct, eq=False):
    """A tenant's usage that is being read. `border`: usage from this time on is read in the order
    of commits, earlier usage in any order. `is_outdated`: a commit has added to earlier usage.
    """

    tenant_id: str
    border: int
    is_outdated: bool = False


class _Earlier(msgspec.Struct, kw_only=True):
    """A tenant's usage from the beginning of a day to `border` (Unix seconds), read at `at`
    (monotonic).
    """

    day: int
    border: int
    mib_ms: int
    at: float


class Quotas(Mirror[TenantQuota]):
    """The quotas and states that operators have set for tenants."""

    def __init__(
        self,
        store: SqlQuotas,
        stats: SqlStats,
        admission: Admission,
        clock: Clock,
        disabled: DisabledTenants,
        others: Others | None = None,
    ) -> None:
        super().__init__()
        self._store, self._stats = store, stats
        self.admission, self._clock = admission, clock
        self._counting: dict[str, asyncio.Task[None]] = {}  # by tenant
        self._counts: set[_Count] = set()
        self._earlier: dict[str, _Earlier] = {}
        self.disabled = disabled
        # Tenants that another node reports as disabled, until they are read from the store.
        self._heard: set[str] = set()
        self.others = others or Others()

    async def restore(self) -> None:
        """Load quotas, and today's usage if a limit needs it. Called at start."""
        await super().restore()
        limited = {one for one in self._rows if self._is_limited(one)}
        if self.admission.limits.gb_seconds_per_day:
            limited |= set(await self._stats.tenants())
        for tenant_id in limited:
            if self._is_limited(tenant_id):
                await self._count(tenant_id)

    def tenants(self) -> list[str]:
        """The tenants that have their own quota, or are disabled."""
        return list(self._rows)

    def of(self, tenant_id: str) -> TenantQuota:
        """The tenant's own settings; `NONE` if there are none."""
        return self._rows.get(tenant_id, NONE)

    async def set(self, tenant_id: str, quota: TenantQuota) -> None:
        """Replace a tenant's whole quota; a disabled tenant stays disabled. Raises `CapacityFull`
        if there are too many.
        """
        await self._change(
            tenant_id, lambda before: msgspec.structs.replace(quota, disabled=before.disabled)
        )

    async def disable(self, tenant_id: str, *, disabled: bool) -> None:
        """Disable a tenant, or enable it again, from the next request on. Raises as `set` does, and
        `Conflict` if a node of an older version would serve the tenant.
        """
        if disabled and self.others.has_older_nodes():
            raise older_node("would serve the tenant")
        await self._change(
            tenant_id, lambda before: msgspec.structs.replace(before, disabled=disabled)
        )

    async def _change(self, tenant_id: str, change: Callable[[TenantQuota], TenantQuota]) -> None:
        def decide(before: TenantQuota | None) -> TenantQuota | None:
            quota = change(before or NONE)
            kept = None if quota == NONE else quota
            self._check_count(tenant_id, kept)
            return kept

        async with self._changing:
            self._put(tenant_id, await self._store.change(tenant_id, decide))
        if self._is_limited(tenant_id) and self.admission.used_today(tenant_id) is None:
            await self._count(tenant_id)

    def _check_count(self, tenant_id: str, kept: TenantQuota | None) -> None:
        if kept is not None and tenant_id not in self._rows and len(self._rows) >= QUOTAS_MAX:
            raise CapacityFull(
                f"{QUOTAS_MAX} tenants have a quota, the maximum",
                hint="delete an unused quota",
                retry_after=60,
            )

    async def _stored(self, only: Collection[str] | None) -> Mapping[str, TenantQuota]:
        return await self._store.load(only)

    async def follow_use(self) -> None:
        """Read usage on other nodes, for tenants that have a limit and invocations here, the
        longest-waiting first. Before that, reload tenants that other nodes reported as disabled.
        """
        if self._heard:
            heard = set(self._heard)
            async with self._changing:
                await self._load(heard)
            self._heard -= heard
        asked = self.admission.take_asked(FOLLOWED_AT_ONCE)
        for tenant_id in asked:
            if self._is_limited(tenant_id):
                await self._follow_use(tenant_id)

    async def _follow_use(self, tenant_id: str) -> None:
        now = int(self._clock.unix())
        day, end = now // DAY_S, floor_to(DAY_S, now) + DAY_S
        earlier = self._earlier.get(tenant_id)
        if earlier is None or earlier.day != day or self._clock.now() - earlier.at > RECOUNT_S:
            border = max(end - DAY_S, floor_to(FINEST_S, now - RECENT_S))
            used = await self._used(tenant_id, (end - DAY_S, border))
            earlier = _Earlier(day=day, border=border, mib_ms=used, at=self._clock.now())
            self._earlier[tenant_id] = earlier
            if len(self._earlier) > QUOTAS_MAX:
                del self._earlier[next(iter(self._earlier))]
        recent = await self._used(tenant_id, (earlier.border, end))
        if self._is_limited(tenant_id):
            self.admission.know_use(tenant_id, DayUse(day, earlier.mib_ms + recent))

    async def gb_seconds_today(self, tenant_id: str) -> float:
        """The usage of the tenant's invocations today."""
        known = self.admission.used_today(tenant_id)
        return (known or await self._today(tenant_id)).gb_seconds

    def counted(self, sums: Mapping[Stretch, CallStats]) -> None:
        """Take note of a commit that has added `sums` to the statistics."""
        used: defaultdict[tuple[str, int], int] = defaultdict(int)
        for key, stats in sums.items():
            used[key.tenant_id, key.start // DAY_S] += stats.mib_ms
            for count in self._counts:
                if key.tenant_id == count.tenant_id and key.start < count.border:
                    count.is_outdated = True
        for (tenant_id, day), mib_ms in used.items():
            self.admission.use(tenant_id, day, mib_ms)

    async def aclose(self) -> None:
        """Stop counting."""
        tasks = list(self._counting.values())
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    def _changed(self, key: str, before: TenantQuota | None, after: TenantQuota | None) -> None:
        """Apply a changed quota. If the tenant has a limit now, its next invocation starts the
        count of its usage.
        """
        del before
        limits = None if after is None else self.admission.limits.under(after)
        self.admission.set_limits(key, limits)
        self.disabled.set(key, disabled=after is not None and after.disabled)
        if not self._is_limited(key):
            self.admission.forget_use(key)

    def tenant_changed(self, tenant_id: str, is_disabled: bool) -> None:
        """Refuse all requests of a tenant that another node reports as disabled."""
        quota = self.of(tenant_id)
        if is_disabled and not quota.disabled:
            self._heard.add(tenant_id)
            self._put(tenant_id, msgspec.structs.replace(quota, disabled=True))

    def _is_limited(self, tenant_id: str) -> bool:
        return bool(self.admission.limits_of(tenant_id).gb_seconds_per_day)

    def count_soon(self, tenant_id: str) -> None:
        """Start counting the tenant's usage of today, which an invocation needs."""
        if tenant_id not in self._counting:
            task = asyncio.ensure_future(self._count_if_possible(tenant_id))
            self._counting[tenant_id] = task
            task.add_done_callback(lambda _: self._counting.pop(tenant_id))

    async def _count_if_possible(self, tenant_id: str) -> None:
        with contextlib.suppress(StoreUnavailable):  # the next invocation tries again
            await self._count(tenant_id)

    async def _count(self, tenant_id: str) -> None:
        """Start counting the tenant's usage: read the statistics so far; later commits are added.

        Commits continue meanwhile. Nearly all concern the last minute, which is read in the order
        of commits. If a commit concerns an earlier time, everything is read again.
        """
        is_known = False
        while not is_known and self._is_limited(tenant_id):
            border = floor_to(FINEST_S, int(self._clock.unix()) - MINUTE_S)
            count = _Count(tenant_id, border)
            self._counts.add(count)
            try:
                used = await self._today(tenant_id, border)
            finally:
                self._counts.remove(count)
            is_known = not count.is_outdated
            if is_known and self._is_limited(tenant_id):
                self.admission.know_use(tenant_id, used)

    async def _used(
        self, tenant_id: str, span: tuple[int, int], in_order_from: int | None = None
    ) -> int:
        used = await self._stats.usage(
            tenant_id, span, DAY_S, by_function=False, in_order_from=in_order_from
        )
        return sum(one.mib_ms for one in used.values())

    async def _today(self, tenant_id: str, in_order_from: int | None = None) -> DayUse:
        start = floor_to(DAY_S, int(self._clock.unix()))
        used = await self._used(tenant_id, (start, start + DAY_S), in_order_from)
        return DayUse(start // DAY_S, used)
