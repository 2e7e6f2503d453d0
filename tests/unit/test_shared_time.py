"""Calls that share an instance pay for its time once."""

from hypothesis import given
from hypothesis import strategies as some

from promises import promise
from quiltfn.model.shared_time import SharedTime

pytestmark = promise("R38")


def test_calls_that_run_together_divide_the_time() -> None:
    time = SharedTime()
    first = time.enter(10.0)
    second = time.enter(11.0)
    assert time.leave(13.0, second) == 1.0  # half of two seconds
    assert time.leave(14.0, first) == 3.0  # a second alone, half of two, a second alone
    third = time.enter(100.0)  # the time in between is charged to no call
    assert time.leave(101.0, third) == 1.0


@given(some.lists(some.tuples(some.booleans(), some.integers(0, 100)), max_size=60))
def test_the_parts_add_up_to_the_time_in_use(steps: list[tuple[bool, int]]) -> None:
    time, now, used, parts = SharedTime(), 0.0, 0.0, 0.0
    running: list[float] = []
    for begins, passes in [*steps, *[(False, 1)] * len(steps)]:
        used += passes if running else 0
        now += passes
        if begins:
            running.append(time.enter(now))
        elif running:
            parts += time.leave(now, running.pop(0))
    assert abs(parts - used) < 1e-6
