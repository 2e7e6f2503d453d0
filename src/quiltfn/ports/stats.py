"""The interface to call statistics in the store, to which the commit of a call's record adds."""

from collections.abc import Mapping, Sequence
from typing import Protocol

from quiltfn.model.stats import CallStats, Stretch


class StatsStore(Protocol):
    """Call statistics. Raises `StoreUnavailable`. Times in Unix seconds.

    A call that ends is in them once its record is stored: within 50 ms, unless the store refuses
    writes. A kill at any moment neither loses one nor counts one twice.
    """

    async def of_function(
        self, tenant_id: str, function_id: str, span: tuple[int, int], step_s: int
    ) -> Sequence[tuple[int, CallStats]]:
        """What a function's calls came to in each stretch of `step_s` seconds that starts within
        `span` (from, to), oldest first. Stretches without any are left out. What is kept by longer
        steps only is left out, too.
        """

    async def of_tenant(self, tenant_id: str, since: int) -> Mapping[str, CallStats]:
        """What the calls of each function of a tenant came to in the stretches that end behind
        `since`, by the function's id.
        """

    async def usage(
        self,
        tenant_id: str,
        span: tuple[int, int],
        step_s: int | None,
        *,
        by_function: bool = True,
        most: int | None = None,
        in_order_from: int | None = None,
    ) -> Mapping[Stretch, CallStats]:
        """What the calls of each function came to by hours or days that start within `span`; with
        `step_s` None, in all of it. The function id is empty where functions are no longer told
        apart, and everywhere without `by_function`. `most`: of how many statistics it is enough to
        know that there are more; then some of them are returned, not many more than that.
        `in_order_from`: what ended from then on is read last and between two commits. When this
        returns, who is told of commits knows of every commit before that and of none behind it.
        """

    async def tenants(self) -> Sequence[str]:
        """The tenants that have any statistics."""

    async def add(self, sums: Mapping[Stretch, CallStats]) -> None:
        """Adds what was measured beside calls."""
