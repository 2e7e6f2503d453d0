"""Memory: what counts how much, which instances are evicted, and which call is next."""

import pytest

from promises import promise
from quiltfn.model.memory import EvictionCandidate, Memory
from quiltfn.model.pool import PoolLimits
from unit.node_simulation import BUDGET_MIB, IDLE_MIB, Member, NodeSimulation
from unit.pool_simulation import PoolSimulation

pytestmark = promise("P8")


def candidate(number: int, size: float, worth: float, *, parked: bool = False) -> EvictionCandidate:
    return EvictionCandidate("pool", number, size, worth, parked)


def numbers(chosen: list[EvictionCandidate]) -> list[int]:
    return [one.instance for one in chosen]


def ready(member: Member, count: int = 1) -> None:
    callers = [member.acquire() for _ in range(count)]
    for _ in callers:
        member.started(member.starting[0])
    for caller in callers:
        member.cancel(caller)


# Evictions -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("memory", "needed", "of_stock"),
    [
        (Memory(budget_mib=100, held_mib=50), 50, 0),  # there is room for the call
        # Prewarmed sandboxes go first.
        (Memory(budget_mib=100, held_mib=100, prewarmed_mib=12), 10, 10),
        # Evicting everything would not suffice.
        (Memory(budget_mib=100, held_mib=100, prewarmed_mib=5), 16, 0),
        (Memory(budget_mib=100, held_mib=100, leaving_mib=30), 30, 0),  # others are leaving already
    ],
)
def test_no_instance_leaves_that_need_not(memory: Memory, needed: float, of_stock: float) -> None:
    assert memory.choose([candidate(1, 10, 1)], needed) == (of_stock, [])
    assert memory.fits(1) == (memory.held_mib == 50)  # an instance counts until it is gone


def test_then_the_parked_then_those_worth_least_and_no_more_than_needed() -> None:
    memory = Memory(budget_mib=100, held_mib=100, prewarmed_mib=5)
    idle = [
        candidate(1, 10, 3),
        candidate(2, 10, 1),
        candidate(3, 10, 9, parked=True),
        candidate(4, 10, 2),
    ]
    of_stock, chosen = memory.choose(idle, 30)
    assert (of_stock, numbers(chosen)) == (5, [3, 2, 4])


def test_the_clock_rises_to_what_was_evicted_so_that_the_long_useful_do_not_stay() -> None:
    memory = Memory(budget_mib=100, held_mib=100)
    memory.choose([candidate(1, 10, 7.5)], 10)
    assert memory.clock == 7.5
    assert memory.worth(calls=2, start_ms=100, size_mib=50) == 7.5 + 4


# Turns ---------------------------------------------------------------------------------------


def test_who_waits_for_longer_is_first_and_does_not_stand_in_its_own_way() -> None:
    memory = Memory(waiting={"a": 1.0, "b": 2.0})
    assert memory.is_turn_of("a", 5.0 - 4.0)
    assert not memory.is_turn_of("b", 2.0)
    assert not memory.is_turn_of("c", 3.0)
    assert Memory(waiting={"a": 1.0}).is_turn_of("a", 9.0)


def test_a_small_call_does_not_overtake_a_large_one() -> None:
    machine = NodeSimulation([900.0, 256.0])
    large, small = machine.members
    running = small.acquire()
    small.started(1)
    machine.event(large, PoolSimulation.acquire)
    machine.event(small, PoolSimulation.acquire)
    assert not large.simulated
    assert len(small.simulated) == 1
    small.release(small.held(running))  # type: ignore[arg-type]
    small.cleaned(1)
    assert len(large.simulated) == 1
    assert small.waiting


def test_when_the_first_goes_away_the_next_is_served_at_once() -> None:
    # A large call waits, and behind it a small one that would fit. The caller of the large one
    # leaves. No memory was freed, but now it is the small one's turn.
    machine = NodeSimulation([900.0, 256.0])
    large, small = machine.members
    small.acquire()
    small.started(1)
    machine.event(large, PoolSimulation.acquire)
    machine.event(small, PoolSimulation.acquire)
    machine.event(large, lambda member: member.cancel(1))
    assert len(small.starting) == 1


@pytest.mark.parametrize("end", ["closed", "overdue"])
def test_when_the_first_is_refused_the_next_is_served_at_once(end: str) -> None:
    machine = NodeSimulation([900.0, 256.0])
    large, small = machine.members
    small.acquire()
    small.started(1)
    machine.event(large, PoolSimulation.acquire)
    machine._at(machine.now + 5)
    machine.event(small, PoolSimulation.acquire)
    machine._at(machine.now + 5)
    machine.event(large, PoolSimulation.close if end == "closed" else Member.tick)
    assert len(small.starting) == 1


def test_of_two_who_wait_in_one_pool_the_second_keeps_its_turn_when_the_first_is_served() -> None:
    # One instance ends and serves the first call. The second one still waits for memory and must
    # not be forgotten, or a later call of another function would be served before it.
    machine = NodeSimulation([512.0, 512.0])
    member, other = machine.members
    for _ in range(2):
        member.acquire()
        member.started(member.starting[0])
    machine.event(member, PoolSimulation.acquire), machine.event(member, PoolSimulation.acquire)  # type: ignore[func-returns-value]
    machine.event(other, PoolSimulation.acquire)
    assert machine.memory.waiting.keys() == {member.pool, other.pool}
    machine.event(member, lambda w: w.release(1))
    machine.event(member, lambda w: w.cleaned(1))
    assert machine.memory.waiting[member.pool] == member.waiting[4]
    assert machine.memory.waiting[member.pool] < machine.memory.waiting[other.pool]


def test_nobody_leaves_for_one_whose_turn_it_is_not() -> None:
    machine = NodeSimulation([900.0, 512.0, 512.0])
    first, second, idle = machine.members
    ready(idle, 2)
    second.acquire()
    second.started(1)
    machine.event(first, PoolSimulation.acquire)  # to evict everything idle would not suffice
    machine.event(second, PoolSimulation.acquire)
    assert not idle.leaving


# Unavailable memory --------------------------------------------------------------------------


def test_a_ready_instance_that_somebody_waits_for_is_not_to_be_had() -> None:
    machine = NodeSimulation([900.0, 256.0])
    large, small = machine.members
    ready(large)
    small.acquire()
    small.started(1)
    machine.event(large, PoolSimulation.acquire)
    assert large.waiting
    assert large.pool.eviction_candidates() == []


def test_nor_is_a_parked_one_that_somebody_waits_for() -> None:
    machine = NodeSimulation([900.0, 256.0])
    large, small = machine.members
    large.promote("c")
    ready(large)
    machine.pass_time(300)
    assert large.kept == [1]
    small.acquire()
    small.started(1)
    machine.event(large, PoolSimulation.acquire)
    assert large.pool.eviction_candidates() == []
    small.release(1, healthy=False)
    small.gone(1)
    assert large.running == [1]  # the waiting call gets the instance that was parked


def test_nor_what_min_instances_asks_for() -> None:
    machine = NodeSimulation([256.0])
    (member,) = machine.members
    ready(member, 3)
    member.set_scaling(min_instances=2, max_instances=3)
    assert len(member.pool.eviction_candidates()) == 1


def test_nor_what_a_deploy_is_making_ready() -> None:
    # Otherwise, each prepared instance would be evicted for a call as soon as it is ready, and
    # restarted, forever.
    machine = NodeSimulation([256.0])
    (member,) = machine.members
    ready(member)
    member.prepare("a", 2)
    assert member.pool.eviction_candidates() == []


# Counting ------------------------------------------------------------------------------------


def test_an_instance_counts_its_limit_with_a_call_and_what_it_uses_without() -> None:
    machine = NodeSimulation([256.0])
    (member,) = machine.members
    member.acquire()
    assert machine.memory.held_mib == 256
    member.started(1)
    member.release(1)
    assert machine.memory.held_mib == 256  # an instance counts in full until it is clean
    member.cleaned(1)
    assert machine.memory.held_mib == IDLE_MIB
    member.measure(1, 33.0)
    assert machine.memory.held_mib == 33.0
    member.acquire()
    member.measure(1, 9.0)  # this counts only once the instance is idle
    assert machine.memory.held_mib == 256
    member.release(1)
    member.cleaned(1)
    assert machine.memory.held_mib == 9.0


def test_one_that_leaves_counts_until_it_is_gone() -> None:
    machine = NodeSimulation([900.0, 512.0])
    member, other = machine.members
    member.acquire()
    member.started(1)
    member.release(1, healthy=False)
    assert (machine.memory.held_mib, machine.memory.leaving_mib) == (900, 900)
    machine.event(other, PoolSimulation.acquire)
    assert not other.simulated
    member.gone(1)
    assert other.starting == [1]


def test_those_made_for_no_call_count_little() -> None:
    machine = NodeSimulation([900.0])
    (member,) = machine.members
    member.pool.set_scaling(PoolLimits(min_instances=2), member.now)
    assert machine.memory.held_mib == 2 * IDLE_MIB < BUDGET_MIB
