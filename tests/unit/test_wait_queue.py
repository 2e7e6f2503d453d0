"""The wait queue: which call is next, which has waited too long, and when to check again."""

from quiltfn.model.wait_queue import LONGEST_RETRY_S, WaitQueue


def a_queue(*since: float) -> WaitQueue:
    queue = WaitQueue()
    for number, at in enumerate(since, 1):
        queue.append(number, at)
    return queue


def test_who_leaves_is_no_longer_in_line_and_leaves_once() -> None:
    queue = a_queue(0.0, 1.0)
    assert queue.discard(1)
    assert not queue.discard(1)
    assert queue.first.id == 2


def test_the_overdue_leave_and_the_impatient_stay() -> None:
    queue = a_queue(0.0, 1.0, 9.0)
    assert queue.count_waiting(2.0, 1.0) == 2
    assert [one.id for one in queue.pop_expired(11.0, 10.0)] == [1, 2]
    assert len(queue) == 1


def test_nobody_is_told_to_come_again_at_once_or_in_an_hour() -> None:
    queue = a_queue(*[0.0] * 500)
    assert queue.retry_after_s(1, 0.0) == 1
    # No call has ended yet, so calls are assumed to take the 10 s of this wait.
    assert a_queue(0.0).retry_after_s(1, 10.0) == 20
    queue.record_duration(100.0)
    assert queue.retry_after_s(1, 0.0) == LONGEST_RETRY_S
    assert queue.retry_after_s(0, 0.0) == LONGEST_RETRY_S


def test_the_estimate_is_the_line_ahead_as_fast_as_newer_calls_were_served() -> None:
    queue = a_queue(*[0.0] * 9)
    queue.record_duration(2.0)
    assert queue.retry_after_s(1, 0.0) == 20
    assert queue.retry_after_s(4, 0.0) == 5
    for _ in range(20):
        queue.record_duration(3.0)
    assert 29 <= queue.retry_after_s(1, 0.0) <= 30
