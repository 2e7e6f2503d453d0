"""What happens to an asynchronous call after an attempt, by its policy: `model/work.py`."""

import pytest
from msgspec.structs import replace

from contract.stores import a_call, a_function
from promises import promise
from quiltfn.model.invocation import Source, Status, WorkOutcome
from quiltfn.model.work import (
    RETRYABLE,
    AsyncPolicy,
    Backoff,
    Destination,
    outcome,
    outcome_of_expired,
)

pytestmark = promise("W4")

NOW_MS, WAIT_MS = 1_760_000_000_000, 10_000
EXACT = Backoff(first=WAIT_MS / 1000, factor=2.0, most=25.0, jitter=0.0)
TWICE = AsyncPolicy(max_attempts=2, backoff=EXACT)
TOLD = replace(TWICE, on_failure=Destination(function="f"), on_success=Destination(function="s"))
ENDS = (*RETRYABLE, Status.SUCCESS, Status.CANCELLED)


def after(
    policy: AsyncPolicy, status: Status, attempt: int = 1, expires_ms: int = NOW_MS + 3_600_000
) -> WorkOutcome:
    """What happens to a call whose attempt ended with this status."""
    ended = a_call(a_function(), status=status, source=Source.ASYNC, attempt=attempt)
    return outcome(policy, ended, NOW_MS, expires_ms, 0.5, lambda: "new")


@pytest.mark.parametrize("status", RETRYABLE)
def test_another_attempt_is_made_until_there_are_none_left(status: Status) -> None:
    again = after(TOLD, status)
    assert again == WorkOutcome(retry_at_ms=NOW_MS + WAIT_MS, decided_at_ms=NOW_MS)
    given_up = after(TOLD, status, attempt=2)
    assert given_up == WorkOutcome(
        dead_letter="attempts", destination_id="new", decided_at_ms=NOW_MS
    )


@pytest.mark.parametrize("status", RETRYABLE)
def test_an_end_that_the_policy_does_not_name_is_the_last(status: Status) -> None:
    others = tuple(one for one in RETRYABLE if one is not status)
    policy = replace(TWICE, retry_on=others)
    assert after(policy, status) == WorkOutcome(dead_letter="attempts", decided_at_ms=NOW_MS)


def test_no_attempt_is_made_that_would_start_too_late() -> None:
    last_ms = NOW_MS + WAIT_MS
    assert after(TWICE, Status.FAILED, expires_ms=last_ms).retry_at_ms == last_ms
    given_up = after(TWICE, Status.FAILED, expires_ms=last_ms - 1)
    assert given_up == WorkOutcome(dead_letter="age", decided_at_ms=NOW_MS)
    # The reason is still the number of attempts if the next one would have been too late as well.
    assert after(TWICE, Status.FAILED, 2, last_ms - 1).dead_letter == "attempts"


def test_a_success_is_told_where_the_policy_says_and_is_no_dead_letter() -> None:
    assert after(TWICE, Status.SUCCESS) == WorkOutcome(decided_at_ms=NOW_MS)
    for policy in (replace(TOLD, on_failure=None), TOLD):
        assert after(policy, Status.SUCCESS).destination_id == "new"
    assert after(replace(TOLD, on_success=None), Status.SUCCESS).destination_id is None


def test_what_was_cancelled_is_over_and_nobody_is_told() -> None:
    """Not even a policy that was stored by hand makes the server retry a cancelled call."""
    policy = replace(TOLD, retry_on=(Status.CANCELLED,))
    assert after(policy, Status.CANCELLED) == WorkOutcome(decided_at_ms=NOW_MS)


@pytest.mark.parametrize("status", ENDS)
def test_work_is_told_of_by_one_end_or_tried_again(status: Status) -> None:
    decided = after(TOLD, status)
    assert (decided.retry_at_ms is None) == (status not in RETRYABLE)
    assert decided.retry_at_ms is None or decided.destination_id is None


def test_what_was_too_old_to_be_started_is_told_as_a_failure() -> None:
    assert outcome_of_expired(TOLD, NOW_MS, lambda: "new") == WorkOutcome(
        dead_letter="age", destination_id="new", decided_at_ms=NOW_MS
    )
    silent = outcome_of_expired(replace(TOLD, on_failure=None), NOW_MS, lambda: "new")
    assert silent == WorkOutcome(dead_letter="age", decided_at_ms=NOW_MS)


def test_each_wait_is_longer_up_to_the_longest() -> None:
    assert [EXACT.seconds(attempt, 0.5) for attempt in (1, 2, 3, 4)] == [10, 20, 25, 25]
    # Large numbers of attempts must not overflow.
    assert replace(EXACT, first=0.001).seconds(10_000, 0.5) == 25
    # Chance makes each wait shorter or longer by the jitter.
    shaken = replace(EXACT, jitter=0.2)
    assert [shaken.seconds(1, chance) for chance in (0.0, 0.5, 1.0)] == [8, 10, 12]
    assert replace(EXACT, jitter=1.0).seconds(1, 0.0) == 0
