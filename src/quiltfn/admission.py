"""Per-tenant limits: functions, calls in flight, and calls per second if that is configured.

The limits of calls apply to invocations only, so a tenant that has reached one can still pause,
scale or delete the function that uses it up.
"""

from collections import defaultdict
from dataclasses import dataclass

import msgspec

from quiltfn.model.errors import RateLimited
from quiltfn.ports import Clock


@dataclass(frozen=True, slots=True, kw_only=True)
class TenantLimits:
    """Of each tenant. `calls_per_s` 0 means no such limit."""

    in_flight: int = 1000
    calls_per_s: float = 0.0
    functions: int = 10_000


@dataclass(slots=True)
class _Bucket:
    """Tokens that refill with time; one second's worth may come at once."""

    tokens: float
    at: float


class InFlight(msgspec.Struct, eq=False):
    """A call that was admitted; it counts until the `with` block ends."""

    counts: dict[str, int]
    tenant_id: str

    def __enter__(self) -> None:
        pass

    def __exit__(self, *_: object) -> None:
        self.counts[self.tenant_id] -= 1
        if not self.counts[self.tenant_id]:
            del self.counts[self.tenant_id]


class Admission:
    """Admits calls, or refuses them and says how long to wait."""

    def __init__(self, clock: Clock, limits: TenantLimits) -> None:
        self.limits = limits
        self._clock = clock
        self._in_flight: defaultdict[str, int] = defaultdict(int)
        self._buckets: dict[str, _Bucket] = {}

    def call(self, tenant_id: str) -> "InFlight":
        """One invocation, from here to the end of the `with` block. Raises `RateLimited`."""
        if self._in_flight[tenant_id] >= self.limits.in_flight:
            raise RateLimited(
                f"the tenant has {self.limits.in_flight} calls in flight, its limit", retry_after=1
            )
        if self.limits.calls_per_s:
            self._take_token(tenant_id)
        self._in_flight[tenant_id] += 1
        return InFlight(self._in_flight, tenant_id)

    def check_functions(self, count: int) -> None:
        """Whether a tenant with `count` functions may have one more. Raises `RateLimited`."""
        if count >= self.limits.functions:
            raise RateLimited(
                f"the tenant has {count} functions, its limit",
                hint="delete one that is not needed",
                retry_after=60,
            )

    def _take_token(self, tenant_id: str) -> None:
        rate, now = self.limits.calls_per_s, self._clock.now()
        most = max(1.0, rate)
        bucket = self._buckets.setdefault(tenant_id, _Bucket(most, now))
        bucket.tokens = min(most, bucket.tokens + (now - bucket.at) * rate)
        bucket.at = now
        if bucket.tokens < 1:
            wait = (1 - bucket.tokens) / rate
            raise RateLimited(
                f"the tenant may make {rate:g} calls a second", retry_after=int(wait) + 1
            )
        bucket.tokens -= 1
