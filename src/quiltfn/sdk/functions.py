"""`client.functions`: create, deploy, call, change and watch functions.

A function is named by its name or its id. Where the API wants an id and a name was given, it is
looked up first.
"""

import math
import re
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any, TypeVar

import msgspec

from quiltfn.sdk.errors import DeployFailed, NotFoundError, VersionFailed
from quiltfn.sdk.events import EventReader
from quiltfn.sdk.methods import (
    Listing,
    Method,
    OfAsyncClient,
    OfClient,
    PagedMethod,
    StreamMethod,
    with_fields_of,
    with_name_and_fields_of,
)
from quiltfn.sdk.request import (
    Flow,
    Request,
    as_json,
    ask,
    delete,
    encoded,
    get,
    post,
    query,
    segment,
    stream,
)
from quiltfn.wire import (
    CreatedFunction,
    Egress,
    Function,
    FunctionChanges,
    FunctionPage,
    Invocation,
    InvocationPage,
    NewFunction,
    NewInvocation,
    PauseResult,
    Pool,
    PoolStats,
    Rollback,
    Timeline,
    Version,
    VersionPage,
)

T = TypeVar("T")

BASE = "/api/functions"
UUID = re.compile(r"[0-9a-fA-F]{8}(-[0-9a-fA-F]{4}){3}-[0-9a-fA-F]{12}")
WAIT_S = 30.0  # a call may wait for an instance before it runs, and its answer takes a moment
CALL_MAX_S = 86_400.0  # what a function's own timeout is at most, unless the server says more


# --- which function is meant -------------------------------------------------------------------


def by_id(function_id: str) -> Request[Function]:
    return get(f"{BASE}/{segment(function_id)}", Function)


def by_name(name: str) -> Request[Function]:
    return get(f"{BASE}/by-name/{segment(name)}", Function)


def on(function: str, request: Callable[[str], Request[T]]) -> Flow[T]:
    """The request on a function by its id, which is looked up where a name is given."""

    def after_looking_up(name: str) -> Flow[T]:
        found = yield from ask(by_name(name))
        return (yield from ask(request(found.id)))

    return _either(function, lambda one: ask(request(one)), after_looking_up)


def _either(
    function: str, with_id: Callable[[str], Flow[T]], with_name: Callable[[str], Flow[T]]
) -> Flow[T]:
    """One of two ways, by what the word looks like. Raises TypeError and ValueError for what cannot
    be a name."""
    if not isinstance(function, str):
        raise TypeError(f"function must be a name or an id, not {type(function).__name__}")
    if not function:
        raise ValueError("function must not be empty: it is a name or an id")
    if "/" in function:
        raise ValueError(f"function must be a name or an id, which have no slash, not {function!r}")
    if not UUID.fullmatch(function):
        return (yield from with_name(function))
    try:
        return (yield from with_id(function))
    except NotFoundError as no_such_id:
        # A name may look like an id. If it is neither, the id's refusal is the one to tell.
        try:
            return (yield from with_name(function))
        except NotFoundError:
            raise no_such_id from None


# --- functions ---------------------------------------------------------------------------------


@with_fields_of(NewFunction)
def create_function(new: NewFunction) -> Flow[CreatedFunction]:
    """Create a function. It has version 1 and is called after `deploy`."""
    return ask(post(BASE, CreatedFunction, new, takes_key=True))


def get_function(function: str) -> Flow[Function]:
    """One function, by its name or id."""
    return _either(function, lambda one: ask(by_id(one)), lambda one: ask(by_name(one)))


def list_functions(
    *,
    state: str | None = None,
    cluster_id: str | None = None,
    page_size: int | None = None,
    cursor: str | None = None,
) -> Listing[FunctionPage, Function]:
    """The tenant's functions, oldest first."""

    def page_after(after: str | None) -> Flow[FunctionPage]:
        wanted = query(limit=page_size, cursor=after, state=state, cluster_id=cluster_id)
        return ask(get(BASE + wanted, FunctionPage))

    return Listing(page_after, lambda page: page.functions, cursor)


@with_name_and_fields_of(FunctionChanges)
def update_function(function: str, changes: FunctionChanges) -> Flow[Function]:
    """Change a function: a new version. What is not named stays, None resets what may be null.

    Raises VersionFailed where the new version cannot serve; the one before it goes on serving.
    """
    changed = yield from on(
        function,
        lambda one: Request(
            method="PUT",
            path=f"{BASE}/{segment(one)}",
            read=as_json(Function),
            body=encoded(changes),
        ),
    )
    # The server clears the message of an earlier failure before it makes the version.
    if changed.error_message is not None:
        raise VersionFailed(changed)
    return changed


def delete_function(function: str) -> Flow[None]:
    """Delete a function. Calls that run have 5 seconds to end."""
    return on(function, lambda one: delete(f"{BASE}/{segment(one)}"))


def deploy_function(function: str) -> Flow[Function]:
    """Make instances ready. After 20 s the result may still have the state `deploying`.

    Raises DeployFailed where the state ends as `error`.
    """
    return _deployed(on(function, lambda one: post(f"{BASE}/{segment(one)}/deploy", Function)))


def pause_function(function: str) -> Flow[PauseResult]:
    """Refuse new calls; those that run finish."""
    return on(function, lambda one: post(f"{BASE}/{segment(one)}/pause", PauseResult))


def resume_function(function: str) -> Flow[Function]:
    """Take calls again after a pause. Raises DeployFailed where the state ends as `error`."""
    return _deployed(on(function, lambda one: post(f"{BASE}/{segment(one)}/resume", Function)))


def _deployed(flow: Flow[Function]) -> Flow[Function]:
    one = yield from flow
    if one.state == "error":
        raise DeployFailed(one)
    return one


# --- versions ----------------------------------------------------------------------------------


def list_versions(
    function: str, *, page_size: int | None = None, cursor: str | None = None
) -> Listing[VersionPage, Version]:
    """A function's versions, newest first."""

    def page_after(after: str | None) -> Flow[VersionPage]:
        wanted = f"/versions{query(limit=page_size, cursor=after)}"
        return on(function, lambda one: get(f"{BASE}/{segment(one)}{wanted}", VersionPage))

    return Listing(page_after, lambda page: page.versions, cursor)


def rollback_function(function: str, version: int) -> Flow[Function]:
    """Let an earlier version serve again.

    Raises VersionFailed where it cannot; the version that served goes on serving.
    """
    body = Rollback(version=version)
    now = yield from on(
        function,
        lambda one: post(f"{BASE}/{segment(one)}/rollback", Function, body, is_repeatable=True),
    )
    if now.current_version != version:
        raise VersionFailed(now)
    return now


# --- calls -------------------------------------------------------------------------------------


def invoke_function(
    function: str,
    payload: object = None,
    *,
    environment: Mapping[str, str] | None = None,
    timeout_seconds: int | None = None,
    idempotency_key: str | None = None,
) -> Flow[Invocation]:
    """Call a function and wait for its end.

    `payload`: a text as it is, anything else as JSON. A handler that fails is a result, not an
    exception: look at `status` and `exit_code`. With an `idempotency_key` the function runs once
    for it however often the call is repeated, and the client repeats it where the connection was
    lost.
    """
    body = new_invocation(payload, environment, timeout_seconds)
    runs_s = CALL_MAX_S if timeout_seconds is None else timeout_seconds
    headers = {} if idempotency_key is None else {"Idempotency-Key": idempotency_key}

    def call(path: str) -> Flow[Invocation]:
        return ask(
            post(
                path,
                Invocation,
                body,
                headers=headers,
                read_timeout_s=runs_s + WAIT_S,
                is_repeatable=idempotency_key is not None,
            )
        )

    return _either(
        function,
        lambda one: call(f"{BASE}/{segment(one)}/invoke"),
        lambda one: call(f"{BASE}/invoke/{segment(one)}"),
    )


def stream_function(
    function: str,
    payload: object = None,
    *,
    environment: Mapping[str, str] | None = None,
    timeout_seconds: int | None = None,
    on_disconnect: str | None = None,
) -> Flow[Any]:
    """Call a function and follow it: `Started`, each `Output` as it is written, and `End`.

    The arguments are those of `invoke`. `on_disconnect`: "cancel" ends the call when the iterator
    is closed or the connection is lost; otherwise it goes on.
    """
    body = new_invocation(payload, environment, timeout_seconds)
    headers = {} if on_disconnect is None else {"X-On-Disconnect": on_disconnect}

    def call(path: str) -> Flow[Any]:
        return ask(stream("POST", path, body, headers=headers))

    return _either(
        function,
        lambda one: call(f"{BASE}/{segment(one)}/invoke"),
        lambda one: call(f"{BASE}/invoke/{segment(one)}"),
    )


def new_invocation(
    payload: object, environment: Mapping[str, str] | None, timeout_seconds: int | None
) -> NewInvocation:
    return NewInvocation(
        payload=payload_text(payload),
        environment=None if environment is None else dict(environment),
        timeout_seconds=timeout_seconds,
    )


def payload_text(payload: object) -> str | None:
    """What a handler is given for `payload`.

    Raises ValueError for bytes that are not UTF-8, NaN and infinity, and TypeError for a set: JSON
    has none of them, and the encoder would send something else.
    """
    if payload is None or isinstance(payload, str):
        return payload
    if isinstance(payload, bytes):
        return payload.decode()
    check_payload(payload, "payload")
    return msgspec.json.encode(payload).decode()


def check_payload(value: object, where: str) -> None:
    """Raises ValueError or TypeError for what JSON cannot hold; `where` names it."""
    if isinstance(value, float) and not math.isfinite(value):
        raise ValueError(f"{where} is {value}, which JSON cannot hold")
    if isinstance(value, set | frozenset):
        raise TypeError(f"{where} is a set, which JSON cannot hold; give a list")
    if isinstance(value, Mapping):
        for key, one in value.items():
            check_payload(one, f"{where}[{key!r}]")
    elif isinstance(value, list | tuple):
        for index, one in enumerate(value):
            check_payload(one, f"{where}[{index}]")


def list_invocations(
    function: str,
    *,
    status: str | None = None,
    cold_start: bool | None = None,
    min_duration_ms: int | None = None,
    page_size: int | None = None,
    cursor: str | None = None,
) -> Listing[InvocationPage, Invocation]:
    """The records of a function's calls, newest first."""

    def page_after(after: str | None) -> Flow[InvocationPage]:
        wanted = query(
            limit=page_size,
            cursor=after,
            status=status,
            cold_start=cold_start,
            min_duration_ms=min_duration_ms,
        )
        return on(
            function,
            lambda one: get(f"{BASE}/{segment(one)}/invocations{wanted}", InvocationPage),
        )

    return Listing(page_after, lambda page: page.invocations, cursor)


def get_invocation(function: str, invocation_id: str) -> Flow[Invocation]:
    """The record of one call."""
    return on(function, lambda one: get(_invocation(one, invocation_id), Invocation))


def get_invocation_output(
    function: str,
    invocation_id: str,
    *,
    stream: str = "stdout",
    first: int = 0,
    last: int | None = None,
) -> Flow[bytes]:
    """What the handler wrote to `stdout` or `stderr`, from byte `first` to byte `last`.

    Raises ApiError with RANGE_NOT_SATISFIABLE where `first` lies behind the end.
    """
    is_whole = first == 0 and last is None
    headers = {} if is_whole else {"Range": f"bytes={first}-{'' if last is None else last}"}
    return on(
        function,
        lambda one: Request(
            method="GET",
            path=f"{_invocation(one, invocation_id)}/output{query(stream=stream)}",
            read=bytes,
            headers=headers,
            is_repeatable=True,
        ),
    )


def get_invocation_logs(
    function: str, invocation_id: str, *, stream: str | None = None, tail: int | None = None
) -> Flow[bytes]:
    """What a call has written by now: both streams in order of arrival, or `stream` alone. `tail`:
    so many of its last lines.
    """
    wanted = query(stream=stream, tail=tail)
    return on(
        function,
        lambda one: Request(
            method="GET",
            path=f"{_invocation(one, invocation_id)}/logs{wanted}",
            read=bytes,
            headers={"Accept": "text/plain"},
            is_repeatable=True,
        ),
    )


def follow_invocation_logs(
    function: str,
    invocation_id: str,
    *,
    only: str | None = None,
    tail: int | None = None,
    after: str | None = None,
) -> Flow[Any]:
    """Follow what a call writes until its `End`, from its beginning, also of a call that is over.
    `only`: this stream alone. `tail`: begin with so many of its last lines. `after`: begin behind
    so many bytes of standard output and of standard error, such as "120-0".
    """
    wanted = query(follow=True, stream=only, tail=tail, offset=after)
    return on(
        function,
        lambda one: stream("GET", f"{_invocation(one, invocation_id)}/logs{wanted}"),
    )


def follow_function_logs(function: str, *, only: str | None = None) -> Flow[Any]:
    """Follow what all calls of a function write, from now on. It does not end by itself."""
    wanted = query(follow=True, stream=only)
    return on(function, lambda one: stream("GET", f"{BASE}/{segment(one)}/logs{wanted}"))


def get_invocation_timeline(function: str, invocation_id: str) -> Flow[Timeline]:
    """Where the time of one call went."""
    return on(function, lambda one: get(f"{_invocation(one, invocation_id)}/timeline", Timeline))


def _invocation(function_id: str, invocation_id: str) -> str:
    return f"{BASE}/{segment(function_id)}/invocations/{segment(invocation_id)}"


# --- instances ---------------------------------------------------------------------------------


def get_pool(function: str) -> Flow[Pool]:
    """How many instances a function has, by state."""
    return on(function, lambda one: get(f"{BASE}/{segment(one)}/pool", Pool))


def get_pool_stats() -> Flow[PoolStats]:
    """How many instances the tenant has, by state."""
    return ask(get(f"{BASE}/pool/stats", PoolStats))


def get_egress(function: str) -> Flow[Egress]:
    """What a function may reach, and how often that was refused."""
    return on(function, lambda one: get(f"{BASE}/{segment(one)}/egress", Egress))


class FunctionMethods:
    """What both clients can do with functions."""

    create = Method(create_function)
    get = Method(get_function)
    list = PagedMethod(list_functions)
    update = Method(update_function)
    delete = Method(delete_function)
    deploy = Method(deploy_function)
    pause = Method(pause_function)
    resume = Method(resume_function)
    invoke = Method(invoke_function)
    stream = StreamMethod(stream_function, EventReader)
    list_versions = PagedMethod(list_versions)
    rollback = Method(rollback_function)
    list_invocations = PagedMethod(list_invocations)
    get_invocation = Method(get_invocation)
    get_invocation_output = Method(get_invocation_output)
    get_invocation_logs = Method(get_invocation_logs)
    follow_invocation_logs = StreamMethod(follow_invocation_logs, EventReader)
    follow_logs = StreamMethod(follow_function_logs, partial(EventReader, is_endless=True))
    get_invocation_timeline = Method(get_invocation_timeline)
    get_pool = Method(get_pool)
    get_pool_stats = Method(get_pool_stats)
    get_egress = Method(get_egress)


class Functions(FunctionMethods, OfClient):
    """`Client.functions`."""


class AsyncFunctions(FunctionMethods, OfAsyncClient):
    """`AsyncClient.functions`."""
