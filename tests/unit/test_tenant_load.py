"""A tenant's limits over several nodes: what each node may do, and what all do together."""

from collections.abc import Callable
from random import Random

import pytest

from manual_clock import ManualClock
from promises import promise
from quiltfn.fleet.tenants import FleetTenants
from quiltfn.model.errors import RateLimited
from quiltfn.model.member import Member, Report
from quiltfn.model.tenant_load import (
    RESERVE,
    TENANTS_REPORTED_MAX,
    TenantLoad,
    bounded_loads,
    has_room,
    rate_share,
)
from quiltfn.model.tenant_quota import TenantLimits
from quiltfn.tenants.admission import Admission, InFlight, LimitTable

pytestmark = promise("N53")

TENANT = "acme"
BEAT_S = 2.0


def load(in_flight: int = 0, wanted: int = 0) -> TenantLoad:
    return TenantLoad(TENANT, in_flight, wanted)


# Decisions of one node ------------------------------------------------------------------------


def test_all_stay_below_the_limit_and_leave_room_for_who_wants_some() -> None:
    assert has_room(9, 10, [])
    assert not has_room(10, 10, [])
    assert has_room(4, 10, [load(3), load(2)])
    assert not has_room(5, 10, [load(3), load(2)])
    # Otherwise, a node with calls would take each place that becomes free before the other node
    # learns of it.
    assert has_room(9, 10, [load(0, 0)])
    assert not has_room(9, 10, [load(0, 5)])
    assert has_room(4, 10, [load(0, 100)])
    assert not has_room(5, 10, [load(0, 100)])


def test_what_nobody_uses_of_a_rate_is_lent() -> None:
    assert [rate_share(90, [0, 0, 0], node) for node in range(3)] == [30, 30, 30]
    lent = [rate_share(90, [500, 0, 0], node) for node in range(3)]
    assert lent == pytest.approx([84, 3, 3])  # each other node keeps a third of a tenth
    assert rate_share(90, [20, 0, 0], 0) > 20  # this node may use more than it does now
    assert [rate_share(90, [500, 500, 500], node) for node in range(3)] == [30, 30, 30]
    assert [rate_share(90, [500, 10, 500], node) for node in range(3)] == [40, 10, 40]
    assert rate_share(90, [500], 0) == 90


def test_the_shares_of_all_nodes_are_the_limit() -> None:
    dice = Random(7)
    for _ in range(500):
        count, most = dice.randint(1, 9), dice.uniform(0.1, 1000)
        asked = [dice.choice((0.0, dice.uniform(0, 3 * most))) for _ in range(count)]
        shares = [rate_share(most, asked, node) for node in range(count)]
        assert sum(shares) <= most * 1.000001
        if sum(asked) >= most:
            assert sum(shares) == pytest.approx(most)
        assert min(shares) >= most * RESERVE / count * 0.999999


def test_a_report_names_the_tenants_with_most_calls() -> None:
    loads = [TenantLoad(f"t{n}", n, n) for n in range(TENANTS_REPORTED_MAX + 100)]
    kept = bounded_loads(loads)
    assert len(kept) == TENANTS_REPORTED_MAX
    assert min(one.in_flight for one in kept) == 100
    assert bounded_loads(loads[:3]) == loads[:3]


# Several nodes --------------------------------------------------------------------------------


class Nodes:
    """Nodes whose heartbeats follow each other, each every two seconds, by a clock that tests move.

    `shares` False: they know nothing of each other, as a negative control.
    """

    def __init__(self, count: int, *, shares: bool = True, **limits: float) -> None:
        self.clock = ManualClock(1000.0)
        self.rows: dict[str, Member] = {}
        self.admissions = []
        self.tenants = []
        for name in (f"n{number}" for number in range(count)):
            tenants = FleetTenants(name, self.clock)
            table = LimitTable(TenantLimits(**limits))  # type: ignore[arg-type]
            admission = Admission(self.clock, table, tenants if shares else None)
            self.tenants.append(tenants)
            self.admissions.append(admission)
            self.rows[name] = Member(name=name, epoch=1, version="1")
        self.passed = 0
        for _ in range(count):
            self.beat()

    def beat(self) -> None:
        """The next node sends its heartbeat and reads the others'."""
        number = self.passed % len(self.tenants)
        name, self.passed = f"n{number}", self.passed + 1
        report = Report(tenants=self.admissions[number].loads())
        self.rows[name] = Member(name=name, epoch=1, version="1", report=report)
        self.tenants[number].read(list(self.rows.values()), self.rows.keys() - {name})
        self.clock.time += BEAT_S / len(self.tenants)

    def call(self, node: int) -> InFlight | None:
        try:
            return self.admissions[node].call(TENANT)
        except RateLimited:
            return None


def fill(nodes: Nodes, *which: int, tries: int = 100) -> list[InFlight]:
    """Start calls that do not end at these nodes in turn. Returns the admitted calls."""
    found = [nodes.call(which[turn % len(which)]) for turn in range(tries)]
    return [one for one in found if one is not None]


def end(calls: list[InFlight]) -> None:
    for call in calls:
        call.__exit__()


def test_a_tenant_whose_calls_all_come_to_one_node_has_its_whole_limit() -> None:
    nodes = Nodes(3, calls_in_flight=10)
    assert len(fill(nodes, 1)) == 10
    for _ in range(6):
        nodes.beat()
    assert fill(nodes, 0, 1, 2) == []
    assert [one.in_flight(TENANT) for one in nodes.admissions] == [10, 10, 10]


def test_calls_that_begin_everywhere_at_once_are_too_many_for_no_longer_than_they_run() -> None:
    nodes = Nodes(3, calls_in_flight=9)
    first = fill(nodes, 0, 1, 2)
    assert len(first) == 3 * 9  # the documented limit before heartbeats arrive
    for _ in range(6):
        nodes.beat()
        assert fill(nodes, 0, 1, 2) == []
    end(first)
    for _ in range(10):
        calls = fill(nodes, 0, 1, 2)
        assert len(calls) <= 9 + 2
        nodes.beat()
        end(calls)


def test_nodes_share_fairly_what_a_tenant_may_have() -> None:
    """One node has taken everything before the other gets calls. Then more calls arrive at both
    than end.
    """
    nodes = Nodes(2, calls_in_flight=10)
    running = {0: fill(nodes, 0), 1: []}
    for _ in range(2):
        nodes.beat()
    most = 0
    for _ in range(40):
        end([max(running.values(), key=len).pop(0)])
        for node in (0, 1):
            running[node] += fill(nodes, node, tries=20)
        nodes.beat()
        most = max(most, sum(len(calls) for calls in running.values()))
    assert abs(len(running[0]) - len(running[1])) <= 1
    assert most <= 10 + 1


def test_a_limit_of_one_lets_calls_through_wherever_they_come() -> None:
    nodes = Nodes(3, calls_in_flight=1)
    admitted = 0
    for turn in range(60):
        calls = fill(nodes, turn % 3, tries=3)
        assert len(calls) <= 1
        admitted += len(calls)
        end(calls)
        nodes.beat()
    assert admitted > 30


def admitted_in(nodes: Nodes, seconds: float, rates: Callable[[float], list[float]]) -> int:
    """How many calls are admitted within `seconds`. `rates`: takes the time, and returns how many
    calls arrive at each node per second.
    """
    count, due = 0, [0.0] * len(nodes.admissions)
    step_s, began = 0.01, nodes.clock.time
    beats_at = began + BEAT_S / len(due)
    while nodes.clock.time < began + seconds:
        nodes.clock.time += step_s
        if nodes.clock.time >= beats_at:
            now = nodes.clock.time
            nodes.beat()
            nodes.clock.time, beats_at = now, now + BEAT_S / len(due)
        for node, rate in enumerate(rates(nodes.clock.time - began)):
            due[node] += rate * step_s
            while due[node] >= 1:
                due[node] -= 1
                call = nodes.call(node)
                if call is not None:
                    count += 1
                    end([call])
    return count


def test_a_rate_is_that_of_all_nodes_together() -> None:
    nodes = Nodes(3, calls_per_second=30)
    admitted_in(nodes, 6, lambda _: [100, 100, 100])
    assert admitted_in(nodes, 20, lambda _: [100, 100, 100]) == pytest.approx(20 * 30, rel=0.05)
    # Negative control: nodes that know nothing of each other admit three times as many calls.
    nodes = Nodes(3, shares=False, calls_per_second=30)
    assert admitted_in(nodes, 20, lambda _: [100, 100, 100]) > 2.8 * 20 * 30


def test_a_tenant_at_one_node_has_nine_tenths_of_its_rate_within_two_beats() -> None:
    nodes = Nodes(3, calls_per_second=30)
    # The node gets at least its own third at once.
    assert admitted_in(nodes, 1, lambda _: [100, 0, 0]) >= 30 / 3
    admitted_in(nodes, 2 * BEAT_S, lambda _: [100, 0, 0])
    assert 0.9 * 300 <= admitted_in(nodes, 10, lambda _: [100, 0, 0]) <= 300


def test_where_calls_move_to_other_nodes_there_are_at_most_twice_as_many_for_a_moment() -> None:
    nodes = Nodes(3, calls_per_second=30)
    admitted_in(nodes, 10, lambda _: [100, 0, 0])
    moved = admitted_in(nodes, 2 * BEAT_S, lambda _: [100, 100, 100])
    assert moved <= 2 * 30 * 2 * BEAT_S + 30
    after = admitted_in(nodes, 10, lambda _: [100, 100, 100])
    assert after <= 1.05 * 300


def test_a_node_that_is_cut_off_keeps_its_part() -> None:
    """The node no longer reads reports, and the other node does not count it."""
    nodes = Nodes(2, calls_per_second=30)
    admitted_in(nodes, 10, lambda _: [100, 100])
    cut_off, seen = nodes.tenants[0], nodes.tenants[1]
    seen.read([nodes.rows["n1"]], ())
    assert (cut_off.rate(TENANT, 30), seen.rate(TENANT, 30)) == (15, 30)


def test_a_refusal_names_the_tenant_s_limit_and_not_the_node_s_part() -> None:
    nodes = Nodes(3, calls_per_second=3)
    assert nodes.call(0) is not None
    with pytest.raises(RateLimited, match="3 invocations per second"):
        nodes.admissions[0].call(TENANT)


def test_nothing_is_kept_of_tenants_that_have_no_calls_any_more() -> None:
    nodes = Nodes(1, calls_per_second=100)
    end(fill(nodes, 0, tries=5))
    assert [one.tenant_id for one in nodes.admissions[0].loads()] == [TENANT]
    for _ in range(20):
        nodes.clock.time += BEAT_S
        found = nodes.admissions[0].loads()
    assert found == []
    [tenants] = nodes.tenants
    assert (tenants._asked_per_s, tenants._asked, tenants._wanted) == ({}, {}, {})
