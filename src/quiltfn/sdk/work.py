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
    """Queue an invocation and return its record at once, in status `queued`. Both are then on
    disk.

    `not_before`: the earliest start, as a time with a time zone, or a duration from now. With an
    `idempotency_key`, repeated requests queue only one invocation, and the client repeats the
    request if the connection is lost. Other arguments are those of `invoke`.
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
    """Wait for the end of an invocation, and return its final record. Raises TimeoutError after
    `timeout_seconds`; None: no limit.
    """
    end = None if timeout_seconds is None else time.monotonic() + timeout_seconds
    named = function
    while True:
        left = WAIT_MAX_S if end is None else max(0.0, end - time.monotonic())
        record = yield from _waited(named, invocation_id, min(WAIT_MAX_S, math.ceil(left)))
        if record.status not in UNDER_WAY:
            return record
        if end is not None and time.monotonic() >= end:
            raise TimeoutError(
                f"the invocation is still {record.status} after {timeout_seconds:g} s"
            )
        named = record.function_id


def _waited(function: str, invocation_id: str, wait_s: int) -> Flow[Invocation]:
    below = invocation(invocation_id) + query(wait_seconds=wait_s)
    return on(function, below, lambda path: get(path, Invocation, read_timeout_s=wait_s + ANSWER_S))


def cancel_invocation(function: str, invocation_id: str) -> Flow[Invocation]:
    """Cancel a waiting or running invocation. Raises ConflictError if it has already ended."""
    return on(function, f"{invocation(invocation_id)}/cancel", lambda path: post(path, Invocation))


def list_attempts(function: str, invocation_id: str) -> Flow[list[Attempt]]:
    """The ended attempts of an invocation, first to last."""
    below = f"{invocation(invocation_id)}/attempts"
    found = yield from on(function, below, lambda path: get(path, AttemptList))
    return found.attempts


def get_invocation_input(function: str, invocation_id: str) -> Flow[InvocationInput]:
    """The input of an invocation, if it is stored. Needs scope write."""
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
    """Replay the stored input of an invocation. `version`: None for that of an invocation that
    names none. `mode`: sync waits for the end, async returns a record in status `queued`.
    `payload`: replaces the stored payload.
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
    """Dead letters, newest first: of `function`, of all functions, or of those with the label
    `cluster_id`.
    """
    paging = {"limit": page_size, "cursor": cursor}
    return of_one_or_all(
        function, "dead-letters", DeadLetterPage, lambda page: page.dead_letters, cluster_id, paging
    )


def redrive_dead_letters(
    function: str, invocation_ids: Sequence[str] | None = None
) -> Flow[RedriveResult]:
    """Queue dead letters again, each under a new id; None: all dead letters. Ids of other
    invocations are ignored, so a repetition queues nothing twice.
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
    """The numbers of a function's queued, running and dead-lettered asynchronous invocations."""
    return on(function, "/queue", lambda path: get(path, FunctionQueue))


def list_queues(
    *, cluster_id: str | None = None, page_size: int | None = None, cursor: str | None = None
) -> Listing[QueuePage, FunctionQueue]:
    """Like `get_queue`, for each function that has such invocations; `cluster_id`: only functions
    with this label.
    """
    wanted = {"cluster_id": cluster_id, "limit": page_size, "cursor": cursor}
    return listing("/api/queues", QueuePage, lambda page: page.queues, wanted)


def get_async_policy(function: str) -> Flow[AsyncPolicy]:
    """The async policy of a function."""
    return on(function, "/async-policy", lambda path: get(path, AsyncPolicy))


@with_name_and_fields_of(NewAsyncPolicy)
def set_async_policy(function: str, policy: NewAsyncPolicy) -> Flow[AsyncPolicy]:
    """Replace a function's async policy. Omitted fields take their defaults."""
    return on(function, "/async-policy", lambda path: put(path, AsyncPolicy, policy))


def delete_async_policy(function: str) -> Flow[None]:
    """Reset to the default: one attempt, no destinations."""
    return on(function, "/async-policy", delete)


def get_record_policy(function: str) -> Flow[RecordPolicy]:
    """Which inputs of a function's invocations are stored."""
    return on(function, "/record-policy", lambda path: get(path, RecordPolicy))


@with_name_and_fields_of(RecordPolicy)
def set_record_policy(function: str, policy: RecordPolicy) -> Flow[RecordPolicy]:
    """Set which inputs of a function's invocations are stored: async, all or none."""
    return on(function, "/record-policy", lambda path: put(path, RecordPolicy, policy))


class WorkMethods:
    """The methods of both clients for asynchronous invocations."""

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
