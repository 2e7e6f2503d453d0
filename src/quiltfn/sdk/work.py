"""Asynchronous invocations in `client.functions`: submit, wait, cancel, replay, redrive."""

import math
import time
from collections.abc import Mapping, Sequence
from datetime import datetime, timedelta

from msgspec import UNSET

from quiltfn.sdk.methods import Listing, Method, PagedMethod, with_name_and_fields_of
from quiltfn.sdk.named_function import calling, invocation, listing, of_one_or_all, on
from quiltfn.sdk.payload import key_header, new_invocation, payload_text
from quiltfn.sdk.request import Flow, ask, delete, get, listed, post, put, query, segment
from quiltfn.wire import (
    AsyncPolicy,
    Attempt,
    AttemptList,
    DeadLetter,
    DeadLetterPage,
    FunctionQueue,
    Invocation,
    InvocationInput,
    NewAsyncPolicy,
    QueuePage,
    RecordPolicy,
    Redrive,
    RedriveResult,
    Replay,
)

UNDER_WAY = ("queued", "running")
WAIT_MAX_S = 60  # the maximum wait of one request
ANSWER_S = 30.0  # extra time for its response
REDRIVE_S = 60.0
RUNS_MAX_S = 86_400.0


def submit_function(
    function: str,
    payload: object = None,
    *,
    environment: Mapping[str, str] | None = None,
    timeout_seconds: int | None = None,
    not_before: datetime | timedelta | None = None,
    idempotency_key: str | None = None,
) -> Flow[Invocation]:
    """Queue a call and return its record at once, in status `queued`. It survives from then on.

    `not_before`: it does not start before that time, which has a time zone, or so long from now.
    With an `idempotency_key` it is queued once however often this is repeated, and the client
    repeats it where the connection was lost. The rest is as for `invoke`.
    """
    body = new_invocation(payload, environment, timeout_seconds)
    start = _start(not_before)

    def call(path: str, which: dict[str, str]) -> Flow[Invocation]:
        wanted = query(mode="async", **start, **which)
        is_repeatable = idempotency_key is not None
        headers = key_header(idempotency_key)
        return ask(
            post(path + wanted, Invocation, body, headers=headers, is_repeatable=is_repeatable)
        )

    return calling(function, call)


def _start(not_before: datetime | timedelta | None) -> dict[str, int]:
    """The query parameters for when an invocation may start, in whole seconds."""
    if not_before is None:
        return {}
    if isinstance(not_before, timedelta):
        if not_before < timedelta():
            raise ValueError(f"not_before must not be negative, not {not_before}")
        return {"delay_seconds": math.ceil(not_before.total_seconds())}
    if not isinstance(not_before, datetime):
        raise TypeError(f"not_before must be a datetime or a timedelta, not {not_before!r}")
    if not_before.tzinfo is None:
        raise ValueError("not_before must be a datetime with a time zone")
    return {"not_before": math.ceil(not_before.timestamp())}


def wait_for_invocation(
    function: str, invocation_id: str, *, timeout_seconds: float | None = None
) -> Flow[Invocation]:
    """The final record of a call, as soon as there is one. Raises TimeoutError if there is none
    after `timeout_seconds`; None: wait as long as it takes.
    """
    end = None if timeout_seconds is None else time.monotonic() + timeout_seconds
    named = function
    while True:
        left = WAIT_MAX_S if end is None else max(0.0, end - time.monotonic())
        record = yield from _waited(named, invocation_id, min(WAIT_MAX_S, math.ceil(left)))
        if record.status not in UNDER_WAY:
            return record
        if end is not None and time.monotonic() >= end:
            raise TimeoutError(f"the call is still {record.status} after {timeout_seconds:g} s")
        named = record.function_id


def _waited(function: str, invocation_id: str, wait_s: int) -> Flow[Invocation]:
    below = invocation(invocation_id) + query(wait_seconds=wait_s)
    return on(function, below, lambda path: get(path, Invocation, read_timeout_s=wait_s + ANSWER_S))


def cancel_invocation(function: str, invocation_id: str) -> Flow[Invocation]:
    """Cancel a call, whether it waits or runs. Raises ConflictError if it is over already."""
    return on(function, f"{invocation(invocation_id)}/cancel", lambda path: post(path, Invocation))


def list_attempts(function: str, invocation_id: str) -> Flow[list[Attempt]]:
    """The attempts at a call that are over, first to last."""
    below = f"{invocation(invocation_id)}/attempts"
    found = yield from on(function, below, lambda path: get(path, AttemptList))
    return found.attempts


def get_invocation_input(function: str, invocation_id: str) -> Flow[InvocationInput]:
    """What a call was given, where that is kept. Needs scope write."""
    below = f"{invocation(invocation_id)}/input"
    return on(function, below, lambda path: get(path, InvocationInput))


def replay_invocation(
    function: str,
    invocation_id: str,
    *,
    version: int | None = None,
    mode: str = "sync",
    payload: object = UNSET,
    idempotency_key: str | None = None,
) -> Flow[Invocation]:
    """Run the kept input of a call again, on the current version or another. `mode`: sync waits for
    the end, async returns a record in status `queued`. `payload`: in place of the kept one.
    """
    text = UNSET if payload is UNSET else payload_text(payload)
    body = Replay(version=version, mode=mode, payload=text)
    return on(
        function,
        f"{invocation(invocation_id)}/replay",
        lambda path: post(
            path,
            Invocation,
            body,
            headers=key_header(idempotency_key),
            read_timeout_s=ANSWER_S + (RUNS_MAX_S if mode == "sync" else 0),
            is_repeatable=idempotency_key is not None,
        ),
    )


def list_dead_letters(
    function: str | None = None,
    *,
    cluster_id: str | None = None,
    page_size: int | None = None,
    cursor: str | None = None,
) -> Listing[DeadLetterPage, DeadLetter]:
    """Asynchronous calls that were given up, newest first: of a function, or without one of all
    functions, or of those with the label `cluster_id`.
    """
    paging = {"limit": page_size, "cursor": cursor}
    return of_one_or_all(
        function, "dead-letters", DeadLetterPage, lambda page: page.dead_letters, cluster_id, paging
    )


def redrive_dead_letters(
    function: str, invocation_ids: Sequence[str] | None = None
) -> Flow[RedriveResult]:
    """Queue dead letters again, each under a new id; None: all of them. What is no dead letter is
    left out, so nothing is queued twice if this is repeated.
    """
    if invocation_ids is None:
        body = Redrive(all=True)
    else:
        body = Redrive(invocation_ids=listed("invocation_ids", invocation_ids))
    return on(
        function,
        "/dead-letters/redrive",
        lambda path: post(path, RedriveResult, body, read_timeout_s=REDRIVE_S, takes_key=True),
    )


def drop_dead_letter(function: str, invocation_id: str) -> Flow[None]:
    """Drop a dead letter; its record stays."""
    return on(function, f"/dead-letters/{segment(invocation_id)}", delete)


def get_queue(function: str) -> Flow[FunctionQueue]:
    """How many of a function's asynchronous calls wait and run, and how many were given up."""
    return on(function, "/queue", lambda path: get(path, FunctionQueue))


def list_queues(
    *, cluster_id: str | None = None, page_size: int | None = None, cursor: str | None = None
) -> Listing[QueuePage, FunctionQueue]:
    """Likewise of each function that has some: of all, or of those with the label `cluster_id`."""
    wanted = {"cluster_id": cluster_id, "limit": page_size, "cursor": cursor}
    return listing("/api/queues", QueuePage, lambda page: page.queues, wanted)


def get_async_policy(function: str) -> Flow[AsyncPolicy]:
    """How a function's asynchronous calls are run."""
    return on(function, "/async-policy", lambda path: get(path, AsyncPolicy))


@with_name_and_fields_of(NewAsyncPolicy)
def set_async_policy(function: str, policy: NewAsyncPolicy) -> Flow[AsyncPolicy]:
    """Set how a function's asynchronous calls are run. What is not named takes the default."""
    return on(function, "/async-policy", lambda path: put(path, AsyncPolicy, policy))


def delete_async_policy(function: str) -> Flow[None]:
    """Go back to the default: one attempt, and nobody is told."""
    return on(function, "/async-policy", delete)


def get_record_policy(function: str) -> Flow[RecordPolicy]:
    """What is kept of a function's calls besides their records."""
    return on(function, "/record-policy", lambda path: get(path, RecordPolicy))


@with_name_and_fields_of(RecordPolicy)
def set_record_policy(function: str, policy: RecordPolicy) -> Flow[RecordPolicy]:
    """Set whose inputs a function keeps: async, all or none."""
    return on(function, "/record-policy", lambda path: put(path, RecordPolicy, policy))


class WorkMethods:
    """What both clients can do with asynchronous invocations."""

    submit = Method(submit_function)
    wait = Method(wait_for_invocation)
    cancel = Method(cancel_invocation)
    replay = Method(replay_invocation)
    list_attempts = Method(list_attempts)
    get_invocation_input = Method(get_invocation_input)
    list_dead_letters = PagedMethod(list_dead_letters)
    redrive_dead_letters = Method(redrive_dead_letters)
    drop_dead_letter = Method(drop_dead_letter)
    get_queue = Method(get_queue)
    list_queues = PagedMethod(list_queues)
    get_async_policy = Method(get_async_policy)
    set_async_policy = Method(set_async_policy)
    delete_async_policy = Method(delete_async_policy)
    get_record_policy = Method(get_record_policy)
    set_record_policy = Method(set_record_policy)
