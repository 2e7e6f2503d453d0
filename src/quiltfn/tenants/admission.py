"""Per-tenant limits: functions, invocations in flight, and, if configured, invocations per second
and GB-seconds per day.

All these limits except that of functions apply to invocations only, so a tenant that has reached
one can still pause, scale or delete the function that causes this. In a fleet, limits apply to all
nodes together. The limit on the size of images is only looked up here.
"""

from collections import defaultdict
from collections.abc import Callable, Sequence
from itertools import islice

import msgspec

from quiltfn.base.signal import Signal
from quiltfn.model.access import disabled
from quiltfn.model.errors import QuiltfnError, RateLimited
from quiltfn.model.stats import DAY_S, gb_seconds_of
from quiltfn.model.tenant_load import TenantLoad
from quiltfn.model.tenant_quota import TenantLimits
from quiltfn.ports import Clock
from quiltfn.ports.quotas import OtherNodes


class _Bucket(msgspec.Struct):
    """A token bucket that holds the tokens of one second."""

    tokens: float
    at: float


class DayUse(msgspec.Struct):
    """The usage of a tenant's invocations on a day. `day`: days since 1970, in UTC."""

    day: int
    mib_ms: int

    @property
    def gb_seconds(self) -> float:
        return gb_seconds_of(self.mib_ms)


class InFlight(msgspec.Struct, eq=False):
    """An admitted invocation; it counts until the `with` block ends."""

    counts: dict[str, int]
    tenant_id: str

    def __enter__(self) -> None:
        pass

    def __exit__(self, *_: object) -> None:
        self.counts[self.tenant_id] -= 1
        if not self.counts[self.tenant_id]:
            del self.counts[self.tenant_id]


class LimitTable:
    """The limits of all tenants. `default`: for tenants without limits of their own."""

    def __init__(self, default: TenantLimits) -> None:
        self.default, self.own = default, dict[str, TenantLimits]()

    def of(self, tenant_id: str) -> TenantLimits:
        """The limits of the tenant."""
        return self.own.get(tenant_id, self.default)

    def image_bytes(self, tenant_id: str) -> int:
        """The limit on the size of the tenant's images."""
        return self.of(tenant_id).image_bytes


class Admission:
    """Admits invocations, or refuses them with the time to wait."""

    def __init__(
        self,
        clock: Clock,
        limits: LimitTable,
        others: OtherNodes | None = None,
        give_way: Callable[[str], bool] = lambda _: False,
    ) -> None:
        """`others`: the other nodes of a fleet, since limits apply to all nodes together; None on a
        standalone server. `give_way`: for a tenant at its limit, ends one invocation whose caller
        has left, and returns whether there was one. Until it has ended, both it and the admitted
        invocation count.
        """
        self._clock, self.others, self._give_way = clock, others, give_way
        self.limits, self._own, self.limits_of = limits.default, limits.own, limits.of
        self._in_flight: defaultdict[str, int] = defaultdict(int)
        self._buckets: dict[str, _Bucket] = {}
        self._days: dict[str, DayUse] = {}
        # Emitted for a tenant whose usage of today is needed but unknown; `know_use` sets the
        # usage.
        self.on_unknown_use: Signal[str] = Signal()
        # Tenants whose usage of today was needed, the longest-waiting first; None before the first
        # `take_asked`.
        self._asked: dict[str, None] | None = None

    def set_limits(self, tenant_id: str, limits: TenantLimits | None) -> None:
        """Set the tenant's own limits; None removes them. Applies from the next invocation on."""
        self._own.pop(tenant_id, None)
        self._buckets.pop(tenant_id, None)  # makes the new rate apply to the next invocation
        if limits is not None:
            self._own[tenant_id] = limits

    def call(self, tenant_id: str) -> "InFlight":
        """Admits one invocation, which counts until the `with` block ends. Raises `RateLimited` and
        `TenantDisabled`.
        """
        limits, in_flight = self._own.get(tenant_id, self.limits), self._in_flight[tenant_id]
        if limits.disabled:
            raise disabled(tenant_id)
        if (
            in_flight >= limits.calls_in_flight
            if self.others is None
            else not self.others.has_room(tenant_id, in_flight, limits.calls_in_flight)
        ) and not (limits.calls_in_flight and self._give_way(tenant_id)):
            raise _in_flight_refusal(limits.calls_in_flight)
        if limits.gb_seconds_per_day:
            refusal = self.day_refusal(tenant_id)
            if refusal is not None:
                raise refusal
        if limits.calls_per_second:
            self._take_token(tenant_id, limits.calls_per_second)
        self._in_flight[tenant_id] += 1
        return InFlight(self._in_flight, tenant_id)

    def would_admit(self, tenant_id: str) -> bool:
        """Whether `call` in this step admits an invocation, without more than counting it. Has no
        effect itself. Only on a standalone server.
        """
        limits = self._own.get(tenant_id, self.limits)
        return (
            not limits.disabled
            and self._in_flight.get(tenant_id, 0) < limits.calls_in_flight
            and not limits.gb_seconds_per_day
            and (
                not limits.calls_per_second or self._tokens(tenant_id, limits.calls_per_second) >= 1
            )
        )

    def refusal(self, tenant_id: str) -> QuiltfnError | None:
        """Why no invocation of the tenant may start now, not even a queued one; None if they may
        start. Short-lived limits, such as that of invocations in flight, are left out.
        """
        limits = self.limits_of(tenant_id)
        if limits.disabled:
            return disabled(tenant_id)
        if not limits.calls_in_flight:
            return _in_flight_refusal(limits.calls_in_flight)
        return self.day_refusal(tenant_id)

    def day_refusal(self, tenant_id: str) -> RateLimited | None:
        """Why no invocation of the tenant may start before tomorrow; None if they may start."""
        most = self.limits_of(tenant_id).gb_seconds_per_day
        if not most:
            return None
        if self._asked is not None:
            self._asked[tenant_id] = None
        used = self.used_today(tenant_id)
        if used is None:
            for hear in self.on_unknown_use.hearers:
                hear(tenant_id)
            return None
        if used.gb_seconds < most:
            return None
        now = int(self._clock.unix())
        return RateLimited(
            f"the tenant's invocations have used {used.gb_seconds:.1f} GB-seconds today, and "
            f"{most:g} are its limit of a day (UTC)",
            retry_after=DAY_S - now % DAY_S,
        )

    def check_functions(self, tenant_id: str, count: int) -> None:
        """Check that the tenant, which has `count` functions, may have one more. Raises
        `RateLimited`.
        """
        most = self.limits_of(tenant_id).functions
        if count < most:
            return
        if most:
            sentence = f"the tenant has {count} functions, and its limit is {most}"
            raise RateLimited(sentence, hint="delete an unused function", retry_after=60)
        sentence = "the tenant's limit functions is 0, so it may have no new function"
        raise RateLimited(sentence, hint=_raised_by("--functions"), retry_after=60)

    def in_flight(self, tenant_id: str) -> int:
        """The number of the tenant's invocations that run or wait, on all nodes as far as known."""
        elsewhere = 0 if self.others is None else self.others.in_flight(tenant_id)
        return self._in_flight.get(tenant_id, 0) + elsewhere

    def loads(self) -> Sequence[TenantLoad]:
        """The load of each tenant that this node reports to other nodes."""
        return () if self.others is None else self.others.report(self._in_flight)

    def used_today(self, tenant_id: str) -> DayUse | None:
        """The usage of the tenant's invocations today; None: unknown."""
        use = self._days.get(tenant_id)
        return use if use is not None and use.day == self._today() else None

    def take_asked(self, most: int) -> list[str]:
        """Take up to `most` tenants whose usage of today was needed since they were last taken, the
        longest-waiting first. Tenants are recorded only from the first use of this method on.
        """
        if self._asked is None:
            self._asked = {}
        taken = list(islice(self._asked, most))
        for tenant_id in taken:
            del self._asked[tenant_id]
        return taken

    def know_use(self, tenant_id: str, use: DayUse) -> None:
        """Set the usage of the tenant's invocations on a day. From now on, `use` adds to this."""
        self._days[tenant_id] = use

    def use(self, tenant_id: str, day: int, mib_ms: int) -> None:
        """Add the usage of invocations that ended on `day`, if that day's usage is known. When the
        day changes (a changed clock can also set it back), the first invocation requests the usage
        of the new day.
        """
        use = self._days.get(tenant_id)
        if use is not None and use.day == day:
            use.mib_ms += mib_ms

    def forget_use(self, tenant_id: str) -> None:
        self._days.pop(tenant_id, None)

    def _today(self) -> int:
        return int(self._clock.unix()) // DAY_S

    def _rate(self, tenant_id: str, limit: float) -> float:
        return limit if self.others is None else self.others.rate(tenant_id, limit)

    def _tokens(self, tenant_id: str, limit: float) -> float:
        """The tenant's tokens now: an invocation takes one."""
        rate, bucket = self._rate(tenant_id, limit), self._buckets.get(tenant_id)
        most = max(1.0, rate)
        passed = 0.0 if bucket is None else self._clock.now() - bucket.at
        return most if bucket is None else min(most, bucket.tokens + passed * rate)

    def _take_token(self, tenant_id: str, limit: float) -> None:
        tokens = self._tokens(tenant_id, limit)
        bucket = self._buckets[tenant_id] = _Bucket(tokens, self._clock.now())
        if bucket.tokens < 1:
            wait = (1 - bucket.tokens) / self._rate(tenant_id, limit)
            raise RateLimited(
                f"the tenant is limited to {limit:g} invocations per second",
                retry_after=int(wait) + 1,
            )
        bucket.tokens -= 1


def _in_flight_refusal(most: int) -> RateLimited:
    """`most`: the maximum of invocations in flight; if it is 0, waiting doesn't help."""
    if most:
        return RateLimited(f"the tenant has {most} invocations in flight, its limit", retry_after=1)
    return RateLimited(
        "the tenant's limit calls_in_flight is 0, so no invocation may run",
        hint=_raised_by("--calls-in-flight"),
        retry_after=60,
    )


def _raised_by(option: str) -> str:
    return f"an operator can raise it: quiltfn quota set TENANT {option} N"
