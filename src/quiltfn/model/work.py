"""Asynchronous invocations: a function's policy for them, and the consequences of each attempt.
Nothing here reads a clock or does I/O.
"""

from collections.abc import Callable, Sequence

import msgspec

from quiltfn.model.invocation import Invocation, Status, WorkOutcome

# The statuses of an attempt after which a policy may retry.
RETRYABLE = (Status.FAILED, Status.TIMEOUT, Status.OOM, Status.ERROR, Status.INTERRUPTED)
OUT_OF_ATTEMPTS, TOO_OLD = "attempts", "age"


class Backoff(msgspec.Struct, frozen=True, kw_only=True):
    """The wait before the next attempt: `first` seconds, then `factor` times the last wait, at most
    `most`. Each wait is up to the fraction `jitter` shorter or longer.
    """

    first: float = 1.0
    factor: float = 2.0
    most: float = 600.0
    jitter: float = 0.2

    def seconds(self, attempt: int, chance: float) -> float:
        """The wait after attempt number `attempt` (1 is the first); `chance` is from [0, 1)."""
        # Beyond 64 doublings the power could overflow; `most` applies long before.
        plain = min(self.most, self.first * self.factor ** min(attempt - 1, 64))
        return max(0.0, plain * (1 + self.jitter * (2 * chance - 1)))


class Destination(msgspec.Struct, frozen=True, kw_only=True):
    """The receiver of an outcome: a function of the tenant by its name, or a URL whose requests are
    signed with `secret`.
    """

    function: str | None = None
    url: str | None = None
    secret: str | None = None


class AsyncPolicy(msgspec.Struct, frozen=True, kw_only=True):
    """How a function's asynchronous invocations run.

    `max_age_seconds`: the maximum time from the first due time of an invocation to the start of an
    attempt. `max_queued`: how many invocations may wait. `max_concurrency`: how many may run at a
    time; None: limited only by instances.
    """

    max_attempts: int = 1
    backoff: Backoff = Backoff()
    retry_on: Sequence[Status] = RETRYABLE
    max_age_seconds: int = 21_600
    max_queued: int = 100_000
    max_concurrency: int | None = None
    on_success: Destination | None = None
    on_failure: Destination | None = None


class RecordPolicy(msgspec.Struct, frozen=True, kw_only=True):
    """Which inputs of ended invocations a function stores: "async" (asynchronous), "all"
    or "none".
    """

    keep_input: str = "async"


def outcome(
    policy: AsyncPolicy,
    ended: Invocation,
    now_ms: int,
    expires_at_ms: int,
    chance: float,
    new_id: Callable[[], str],
) -> WorkOutcome:
    """The consequences of a completed attempt. `ended`: the record of the attempt, with its final
    status. `now_ms`: trusted time. `expires_at_ms`: when the invocation becomes too old to start.
    `chance`: a random number from [0, 1). `new_id`: creates the id of a delivery to a destination.
    """
    if ended.status in policy.retry_on and ended.status in RETRYABLE:
        due = now_ms + round(policy.backoff.seconds(ended.attempt, chance) * 1000)
        if ended.attempt < policy.max_attempts and due <= expires_at_ms:
            return WorkOutcome(retry_at_ms=due, decided_at_ms=now_ms)
        dead: str | None = OUT_OF_ATTEMPTS if ended.attempt >= policy.max_attempts else TOO_OLD
    else:
        dead = None if ended.status in (Status.SUCCESS, Status.CANCELLED) else OUT_OF_ATTEMPTS
    target: Destination | None = getattr(policy, policy_field(ended.status))
    if target is None or ended.status is Status.CANCELLED:
        return WorkOutcome(dead_letter=dead, decided_at_ms=now_ms)
    return WorkOutcome(dead_letter=dead, destination_id=new_id(), decided_at_ms=now_ms)


def policy_field(status: Status) -> str:
    """The field of a policy with the destination for invocations that ended with this status."""
    return "on_success" if status is Status.SUCCESS else "on_failure"


def outcome_of_expired(policy: AsyncPolicy, now_ms: int, new_id: Callable[[], str]) -> WorkOutcome:
    """The outcome of an invocation that is too old to start. `now_ms`, `new_id`: as in
    `outcome`.
    """
    destination_id = None if policy.on_failure is None else new_id()
    return WorkOutcome(dead_letter=TOO_OLD, destination_id=destination_id, decided_at_ms=now_ms)
