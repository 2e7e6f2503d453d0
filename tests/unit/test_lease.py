"""How long a node may continue without a heartbeat that the store has accepted."""

import asyncio

import pytest

from promises import promise
from quiltfn.fleet import lease as module
from quiltfn.fleet.lease import LeaseState, LeaseTimes, NodeLease

pytestmark = promise("N73")


class Times:
    """The clock of a node, and the time of its last renewal."""

    def __init__(self) -> None:
        self.now = self.renewed = 1000.0
        times = LeaseTimes(start_s=10, end_s=60)
        self.lease = NodeLease(lambda: self.renewed, times, lambda: self.now)


@pytest.mark.parametrize(
    ("age", "state"),
    [
        (0, LeaseState.HELD),
        (9.9, LeaseState.HELD),
        (10, LeaseState.STALE),
        (59.4, LeaseState.STALE),
        (59.5, LeaseState.OVER),  # the server ends calls before the launcher ends sandboxes
        (60, LeaseState.OVER),
        (10**6, LeaseState.OVER),
    ],
)
def test_what_a_node_may_do_follows_from_its_last_renewal(age: float, state: LeaseState) -> None:
    times = Times()
    times.now += age
    assert times.lease.state is state
    assert times.lease.is_held is (state is LeaseState.HELD)
    assert times.lease.deadline == 1060.0
    reason = f"has not reached the store for {age:.0f} s" if age >= 10 else ""
    assert reason in times.lease.problem()
    assert bool(times.lease.problem()) is bool(reason)


def test_calls_are_not_ended_before_the_node_begins_nothing_more() -> None:
    assert LeaseTimes(start_s=2, end_s=2.2).end_calls_s == pytest.approx(2.1)
    assert LeaseTimes(start_s=10, end_s=60).end_calls_s == 59.5


@pytest.mark.parametrize(("start", "end"), [(0, 60), (60, 60), (61, 60), (-1, 5)])
def test_times_are_in_their_order(start: float, end: float) -> None:
    with pytest.raises(ValueError, match="less than"):
        LeaseTimes(start_s=start, end_s=end)


async def test_each_renewal_and_each_change_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "LOOK_EVERY_S", 0)
    times, deadlines, states = Times(), list[float](), list[LeaseState]()

    async def changed(state: LeaseState) -> None:
        states.append(state)

    watching = asyncio.ensure_future(times.lease.watch(deadlines.append, changed))
    for later in (0, 2, 11, 0, 61, 0):
        times.now += later
        if later < 3:
            times.renewed = times.now
        for _ in range(5):
            await asyncio.sleep(0)
    watching.cancel()
    # The launcher gets each deadline only once.
    assert deadlines == [1060.0, 1062.0, 1073.0, 1134.0]
    assert states == [LeaseState.STALE, LeaseState.HELD, LeaseState.OVER, LeaseState.HELD]
