"""What calls have taught decides over the last instance: how long it stays, when it comes back."""

from quiltfn.model.keepalive import MINUTE_S, Window, Windows
from quiltfn.model.memory import Memory
from quiltfn.model.pool import Pool, PoolLimits
from unit.pool_world import READY, WARMING, World

LIMITS = PoolLimits(idle_s=300.0, grace_s=0.0)


class Beat:
    """A call every ten minutes, and an instance only around it."""

    def __init__(self) -> None:
        self.last: float | None = None

    def called(self, at: float) -> None:
        self.last = at

    def ended(self, at: float) -> None:
        self.last = at

    def windows(self) -> Windows:
        if self.last is None:
            return ()
        again = self.last + 9 * MINUTE_S
        return (Window(self.last, self.last + 10), Window(again, again + 2 * MINUTE_S))


def a_world(memory: Memory | None = None, **limits: float) -> World:
    world = World(
        PoolLimits(**({"idle_s": 300.0, "grace_s": 0.0} | limits)),  # type: ignore[arg-type]
        lambda given: Pool(given, memory, Beat()),
    )
    world.switch("a")
    return world


def call(world: World) -> bool:
    """One call from beginning to end; whether it was cold."""
    waiter = world.acquire()
    for number in list(world.starting):
        world.started(number)
    is_cold = world.answers[waiter].cold  # type: ignore[union-attr]
    number = world.held(waiter)
    assert number is not None
    world.release(number)
    world.cleaned(number)
    return is_cold


def states(world: World) -> list[str]:
    for number in list(world.leaving):
        world.gone(number)
    return sorted(world.states().values())


def test_it_goes_early_and_comes_back_before_the_next_call() -> None:
    world = a_world()
    assert call(world)
    world.pass_time(11)
    assert states(world) == []
    assert not world.pool.is_at_rest, "it waits for its time"
    world.pass_time(9 * MINUTE_S)
    assert states(world) == [WARMING]
    world.started(world.starting[0])
    assert not call(world), "the call that was expected"


def test_what_was_made_ahead_in_vain_goes_again_and_is_not_made_twice() -> None:
    world = a_world()
    call(world)
    world.pass_time(11)
    assert states(world) == []
    world.pass_time(9 * MINUTE_S)
    world.started(world.starting[0])
    assert states(world) == [READY]
    world.pass_time(2 * MINUTE_S)
    assert states(world) == []
    assert world.pool.is_at_rest


def test_a_new_instance_that_was_asked_for_has_the_idle_rule() -> None:
    world = a_world()
    call(world)
    world.pass_time(MINUTE_S)
    assert states(world) == []
    world.prepare("b")
    world.started(world.starting[0])
    world.switch("b")
    world.pass_time(299)
    assert states(world) == [READY], "an update made it ready"
    world.pass_time(1)
    assert states(world) != [READY]


def test_before_any_call_there_is_the_idle_rule() -> None:
    world = a_world()
    world.prepare("a")
    world.started(world.starting[0])
    world.switch("a")
    world.pass_time(299)
    assert states(world) == [READY]
    world.pass_time(1)
    assert states(world) == []


def test_min_instances_stay_whatever_was_learnt() -> None:
    world = a_world(min_instances=1)
    world.pass_time(0)
    call(world)
    world.pass_time(3600)
    assert states(world) == [READY]


def test_nothing_is_made_ahead_while_memory_is_short() -> None:
    memory = Memory(budget_mib=300.0)
    world = a_world(memory)
    call(world)
    world.pass_time(11)
    assert states(world) == []
    memory.count(300.0)  # others have it
    world.pass_time(10 * MINUTE_S)
    assert states(world) == []
    assert world.short == [], "nobody is to leave for it"


def test_nothing_is_made_ahead_of_calls_that_are_refused() -> None:
    world = a_world()
    call(world)
    world.close()
    world.pass_time(10 * MINUTE_S)
    assert states(world) == []
