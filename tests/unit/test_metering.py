"""The resources that instances have used, on their way to the statistics."""

from collections.abc import Mapping

from manual_clock import ManualClock
from quiltfn.calls.metering import EVERY_S, Metering
from quiltfn.model.errors import StoreUnavailable
from quiltfn.model.stats import CallStats, Stretch


class Pools:
    """Pools that report, at each look, one more microsecond for each of two functions."""

    def take_use(self) -> dict[tuple[str, str], CallStats]:
        return {("tenant", name): CallStats(cpu_us=1) for name in ("f", "g")}


class Stats:
    """A store that is unreachable until a test changes that."""

    def __init__(self) -> None:
        self.is_away = True
        self.stored: dict[Stretch, CallStats] = {}

    async def add(self, sums: Mapping[Stretch, CallStats]) -> None:
        if self.is_away:
            raise StoreUnavailable("the disk is full")
        self.stored.update(sums)


async def test_what_a_store_does_not_take_for_days_is_one_sum_for_each_function() -> None:
    clock, stats = ManualClock(), Stats()
    metering = Metering(Pools(), stats, clock)  # type: ignore[arg-type]
    for _ in range(20_000):
        clock.time += EVERY_S
        await metering.store()
    stats.is_away = False
    await metering.store()
    assert sorted(one.function_id for one in stats.stored) == ["f", "g"]
    assert {one.cpu_us for one in stats.stored.values()} == {20_001}
