"""Past calls decide how long the last instance stays, and when it is started again."""

from promises import promise
from quiltfn.model.keepalive import MINUTE_S, Window, Windows
from quiltfn.model.memory import Memory
from quiltfn.model.pool import Pool, PoolLimits
from unit.pool_simulation import READY, WARMING, PoolSimulation

pytestmark = promise("P10")

LIMITS = PoolLimits(idle_s=300.0, grace_s=0.0)


class Beat:
    """Expects a call every ten minutes, and keeps an instance only around that time."""

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


def a_world(memory: Memory | None = None, **limits: float) -> PoolSimulation:
    sim = PoolSimulation(
        PoolLimits(**({"idle_s": 300.0, "grace_s": 0.0} | limits)),  # type: ignore[arg-type]
        lambda given: Pool(given, memory, Beat()),
    )
    sim.promote("a")
    return sim


def call(sim: PoolSimulation) -> bool:
    """One call from beginning to end. Returns whether the call was cold."""
    waiter = sim.acquire()
    for number in list(sim.starting):
        sim.started(number)
    is_cold = sim.answers[waiter].cold  # type: ignore[union-attr]
    number = sim.held(waiter)  # type: ignore[assignment]
    assert number is not None
    sim.release(number)
    sim.cleaned(number)
    return is_cold


def states(sim: PoolSimulation) -> list[str]:
    for number in list(sim.leaving):
        sim.gone(number)
    return sorted(sim.states().values())


def after_a_call(memory: Memory | None = None) -> PoolSimulation:
    """A pool whose call has ended, and whose instance has left early."""
    sim = a_world(memory)
    assert call(sim)
    sim.pass_time(11)
    assert states(sim) == []
    return sim


def test_it_goes_early_and_comes_back_before_the_next_call() -> None:
    sim = after_a_call()
    assert not sim.pool.is_at_rest, "it waits for its time"
    sim.pass_time(9 * MINUTE_S)
    assert states(sim) == [WARMING]
    sim.started(sim.starting[0])
    assert not call(sim), "the call that was expected"


def test_what_was_made_ahead_in_vain_goes_again_and_is_not_made_twice() -> None:
    sim = after_a_call()
    sim.pass_time(9 * MINUTE_S)
    sim.started(sim.starting[0])
    assert states(sim) == [READY]
    sim.pass_time(2 * MINUTE_S)
    assert states(sim) == []
    assert sim.pool.is_at_rest


def test_a_new_instance_that_was_asked_for_has_the_idle_rule() -> None:
    sim = a_world()
    call(sim)
    sim.pass_time(MINUTE_S)
    assert states(sim) == []
    sim.prepare("b")
    sim.started(sim.starting[0])
    sim.promote("b")
    sim.pass_time(299)
    assert states(sim) == [READY], "an update made it ready"
    sim.pass_time(1)
    assert states(sim) != [READY]


def test_before_any_call_there_is_the_idle_rule() -> None:
    sim = a_world()
    sim.prepare("a")
    sim.started(sim.starting[0])
    sim.promote("a")
    sim.pass_time(299)
    assert states(sim) == [READY]
    sim.pass_time(1)
    assert states(sim) == []


def test_min_instances_stay_whatever_was_learnt() -> None:
    sim = a_world(min_instances=1)
    sim.pass_time(0)
    call(sim)
    sim.pass_time(3600)
    assert states(sim) == [READY]


def test_nothing_is_made_ahead_while_memory_is_short() -> None:
    memory = Memory(budget_mib=300.0)
    sim = after_a_call(memory)
    memory.count(300.0)  # other instances use all memory
    sim.pass_time(10 * MINUTE_S)
    assert states(sim) == []
    assert sim.short == [], "nobody is to leave for it"


def test_nothing_is_made_ahead_of_calls_that_are_refused() -> None:
    sim = a_world()
    call(sim)
    sim.close()
    sim.pass_time(10 * MINUTE_S)
    assert states(sim) == []
