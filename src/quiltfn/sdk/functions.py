"""`client.functions`: create, deploy, invoke, change and watch functions, given by name or id.
Methods for asynchronous invocations are in `work.py`.
"""

from collections.abc import Mapping
from functools import partial
from typing import Any

from quiltfn.sdk.aliases import AliasMethods
from quiltfn.sdk.errors import DeployFailed, VersionFailed
from quiltfn.sdk.events import EventReader
from quiltfn.sdk.filters import CallFilters, FunctionFilters, parameters_of
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
from quiltfn.sdk.named_function import (
    BASE,
    by_id,
    by_name,
    calling,
    either,
    invocation_path,
    of_one_or_all,
    on,
)
from quiltfn.sdk.payload import key_header, new_invocation
from quiltfn.sdk.request import (
    Flow,
    Request,
    as_json,
    ask,
    delete,
    encoded,
    get,
    get_with_etag,
    post,
    query,
    segment,
    stream,
)
from quiltfn.sdk.urls import UrlMethods
from quiltfn.sdk.version_files import VersionFileMethods
from quiltfn.sdk.work import WorkMethods
from quiltfn.wire import (
    CreatedFunction,
    Delivery,
    DeliveryPage,
    Egress,
    Function,
    FunctionChanges,
    FunctionPage,
    FunctionStats,
    FunctionStatsPage,
    FunctionSummary,
    FunctionSummaryPage,
    Invocation,
    InvocationPage,
    ListedPool,
    NewFunction,
    PauseResult,
    Pool,
    PoolList,
    PoolStats,
    Rollback,
    Series,
    Timeline,
    Version,
    VersionPage,
)

WAIT_S = 30.0  # extra time: an invocation may wait for an instance, and its response takes a moment
CALL_MAX_S = 86_400.0  # maximum timeout of a function, unless the server allows more


# --- functions ---------------------------------------------------------------------------------


@with_fields_of(NewFunction)
def create_function(new: NewFunction) -> Flow[CreatedFunction]:
    """Create a function. It has version 1 and is called after `deploy`."""
    return ask(post(BASE, CreatedFunction, new, takes_key=True))


def get_function(function: str) -> Flow[Function]:
    """One function, by its name or id."""
    return either(
        function, lambda function_id: ask(by_id(function_id)), lambda name: ask(by_name(name))
    )


@with_fields_of(FunctionFilters)
def list_functions(filters: FunctionFilters) -> Listing[FunctionPage, Function]:
    """The tenant's functions, oldest first.

    `search`: only those with this text in their name or description. `sort`: "name", "created_at",
    "last_invoked_at" or "invocation_count". `order`: "asc" or "desc". `outdated`: only those whose
    runtime was replaced since their version was made, or only the others.
    """

    def page_after(after: str | None) -> Flow[FunctionPage]:
        return ask(get(BASE + query(**parameters_of(filters, after)), FunctionPage))

    return Listing(page_after, lambda page: page.functions, filters.cursor)


@with_fields_of(FunctionFilters)
def list_function_summaries(
    filters: FunctionFilters,
) -> Listing[FunctionSummaryPage, FunctionSummary]:
    """As `list`, without handlers and environments."""

    def page_after(after: str | None) -> Flow[FunctionSummaryPage]:
        wanted = query(view="brief", **parameters_of(filters, after))
        return ask(get(BASE + wanted, FunctionSummaryPage))

    return Listing(page_after, lambda page: page.functions, filters.cursor)


@with_name_and_fields_of(FunctionChanges)
def update_function(function: str, changes: FunctionChanges) -> Flow[Function]:
    """Change a function: a new version. What is not named stays, None resets what may be null.

    Raises VersionFailed where the new version cannot serve; the one before it goes on serving.
    """
    return _updated(function, changes, {})


def get_function_with_etag(function: str) -> Flow[tuple[Function, str]]:
    """One function, and the ETag of what it is now: see `update_if_match`."""
    return on(
        function, lambda function_id: get_with_etag(f"{BASE}/{segment(function_id)}", Function)
    )


def update_function_if_match(
    function: str, etag: str, *, default_alias: str | None = None, **changes: Any
) -> Flow[Function]:
    """As `update`, if the function still has this ETag. Raises ConflictError if it was changed
    meanwhile. `default_alias`: "keep" leaves it, and calls by it, on the version that it names.
    """
    headers = {"If-Match": etag}
    return _updated(function, FunctionChanges(**changes), headers, default_alias)


def _updated(
    function: str,
    changes: FunctionChanges,
    headers: Mapping[str, str],
    default_alias: str | None = None,
) -> Flow[Function]:
    changed = yield from on(
        function,
        lambda function_id: Request(
            method="PUT",
            path=f"{BASE}/{segment(function_id)}{query(default_alias=default_alias)}",
            read=as_json(Function),
            body=encoded(changes),
            headers=headers,
        ),
    )
    # The server clears the message of an earlier failure before it creates the version.
    if changed.error_message is not None:
        raise VersionFailed(changed)
    return changed


def delete_function(function: str) -> Flow[None]:
    """Delete a function. Calls that run have 5 seconds to end."""
    return on(function, lambda function_id: delete(f"{BASE}/{segment(function_id)}"))


def deploy_function(function: str) -> Flow[Function]:
    """Make instances ready. After 20 s the result may still have the state `deploying`.

    Raises DeployFailed where the state ends as `error`.
    """
    return _deployed(
        on(function, lambda function_id: post(f"{BASE}/{segment(function_id)}/deploy", Function))
    )


def pause_function(function: str) -> Flow[PauseResult]:
    """Refuse new calls; those that run finish."""
    return on(
        function, lambda function_id: post(f"{BASE}/{segment(function_id)}/pause", PauseResult)
    )


def resume_function(function: str) -> Flow[Function]:
    """Take calls again after a pause. Raises DeployFailed where the state ends as `error`."""
    return _deployed(
        on(function, lambda function_id: post(f"{BASE}/{segment(function_id)}/resume", Function))
    )


def _deployed(flow: Flow[Function]) -> Flow[Function]:
    deployed = yield from flow
    if deployed.state == "error":
        raise DeployFailed(deployed)
    return deployed


# --- versions ----------------------------------------------------------------------------------


def list_versions(
    function: str, *, page_size: int | None = None, cursor: str | None = None
) -> Listing[VersionPage, Version]:
    """A function's versions, newest first."""

    def page_after(after: str | None) -> Flow[VersionPage]:
        wanted = f"/versions{query(limit=page_size, cursor=after)}"
        return on(
            function, lambda function_id: get(f"{BASE}/{segment(function_id)}{wanted}", VersionPage)
        )

    return Listing(page_after, lambda page: page.versions, cursor)


def rollback_function(function: str, version: int) -> Flow[Function]:
    """Let an earlier version serve again.

    Raises VersionFailed where it cannot; the version that served goes on serving.
    """
    body = Rollback(version=version)
    now = yield from on(
        function,
        lambda function_id: post(
            f"{BASE}/{segment(function_id)}/rollback", Function, body, is_repeatable=True
        ),
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
    on_disconnect: str | None = None,
) -> Flow[Invocation]:
    """Call a function and wait for its end.

    `function`: its name or its id, or NAME@ALIAS, or NAME@3 for its version 3, which takes scope
    `write` unless it is the current one or an alias names it. `payload`: a text as it is, anything
    else as JSON. A handler that fails is a result, not an exception: look at `status` and
    `exit_code`. With an `idempotency_key` the function runs once for it however often the call is
    repeated, and the client repeats it where the connection was lost. `on_disconnect`: "cancel"
    ends the call when the connection is lost.
    """
    body = new_invocation(payload, environment, timeout_seconds)
    runs_s = CALL_MAX_S if timeout_seconds is None else timeout_seconds
    headers = key_header(idempotency_key)
    if on_disconnect is not None:
        headers["X-On-Disconnect"] = on_disconnect

    def call(path: str, which: dict[str, str]) -> Flow[Invocation]:
        return ask(
            post(
                path + query(**which),
                Invocation,
                body,
                headers=headers,
                read_timeout_s=runs_s + WAIT_S,
                is_repeatable=idempotency_key is not None,
            )
        )

    return calling(function, call)


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

    def call(path: str, which: dict[str, str]) -> Flow[Any]:
        return ask(stream("POST", path + query(**which), body, headers=headers))

    return calling(function, call)


@with_name_and_fields_of(CallFilters)
def list_invocations(function: str, filters: CallFilters) -> Listing[InvocationPage, Invocation]:
    """The records of a function's calls, newest first. `source`: what asked for them, such as
    "schedule". `since`, `until`: accepted at or after the one and before the other, as a time or
    in Unix seconds. A page may be short or empty where few of very many calls match.
    """

    def page_after(after: str | None) -> Flow[InvocationPage]:
        wanted = query(**parameters_of(filters, after))
        return on(
            function,
            lambda function_id: get(
                f"{BASE}/{segment(function_id)}/invocations{wanted}", InvocationPage
            ),
        )

    return Listing(page_after, lambda page: page.invocations, filters.cursor)


def get_invocation(function: str, invocation_id: str) -> Flow[Invocation]:
    """The record of one call."""
    return on(
        function, lambda function_id: get(invocation_path(function_id, invocation_id), Invocation)
    )


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
        lambda function_id: Request(
            method="GET",
            path=f"{invocation_path(function_id, invocation_id)}/output{query(stream=stream)}",
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
        lambda function_id: Request(
            method="GET",
            path=f"{invocation_path(function_id, invocation_id)}/logs{wanted}",
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
        lambda function_id: stream(
            "GET", f"{invocation_path(function_id, invocation_id)}/logs{wanted}"
        ),
    )


def follow_function_logs(function: str, *, only: str | None = None) -> Flow[Any]:
    """Follow what all calls of a function write, from now on. It does not end by itself."""
    wanted = query(follow=True, stream=only)
    return on(
        function, lambda function_id: stream("GET", f"{BASE}/{segment(function_id)}/logs{wanted}")
    )


def get_invocation_timeline(function: str, invocation_id: str) -> Flow[Timeline]:
    """Where the time of one call went."""
    return on(
        function,
        lambda function_id: get(
            f"{invocation_path(function_id, invocation_id)}/timeline", Timeline
        ),
    )


# --- deliveries --------------------------------------------------------------------------------


def list_deliveries(
    function: str | None = None,
    *,
    cluster_id: str | None = None,
    status: str | None = None,
    page_size: int | None = None,
    cursor: str | None = None,
) -> Listing[DeliveryPage, Delivery]:
    """What was sent to the destinations of a function's policy, or is to be, newest first; without
    a function: of all functions, or of those with the label `cluster_id`.
    """

    def page_after(after: str | None) -> Flow[DeliveryPage]:
        rest = {"limit": page_size, "cursor": after, "status": status}
        return of_one_or_all(function, "deliveries", DeliveryPage, cluster_id, rest)

    return Listing(page_after, lambda page: page.deliveries, cursor)


def retry_delivery(function: str, delivery_id: str) -> Flow[Delivery]:
    """Send one that failed, or waits for its next try, at once."""
    again = f"deliveries/{segment(delivery_id)}/retry"
    return on(
        function, lambda function_id: post(f"{BASE}/{segment(function_id)}/{again}", Delivery)
    )


# --- instances ---------------------------------------------------------------------------------


def get_pool(function: str) -> Flow[Pool]:
    """How many instances a function has, by state."""
    return on(function, lambda function_id: get(f"{BASE}/{segment(function_id)}/pool", Pool))


def list_pools(function: str | None = None) -> Flow[list[ListedPool]]:
    """The instances of each function that has some, by state; or of this one alone, if it has."""

    def of(function_id: str | None) -> Request[PoolList]:
        return get(f"{BASE}/pools{query(function_id=function_id)}", PoolList)

    found = yield from ask(of(None)) if function is None else on(function, of)
    return found.pools


def get_pool_stats() -> Flow[PoolStats]:
    """How many instances the tenant has, by state."""
    return ask(get(f"{BASE}/pool/stats", PoolStats))


def get_egress(function: str) -> Flow[Egress]:
    """What a function may reach, and how often that was refused."""
    return on(function, lambda function_id: get(f"{BASE}/{segment(function_id)}/egress", Egress))


def list_stats(
    *, window_seconds: int | None = None, page_size: int | None = None, cursor: str | None = None
) -> Listing[FunctionStatsPage, FunctionStats]:
    """What the calls of each function came to in the last seconds (3600 by default); functions
    without calls are left out.
    """

    def page_after(after: str | None) -> Flow[FunctionStatsPage]:
        wanted = query(window=window_seconds, limit=page_size, cursor=after)
        return ask(get(f"{BASE}/stats{wanted}", FunctionStatsPage))

    return Listing(page_after, lambda page: page.functions, cursor)


def get_series(
    function: str,
    *,
    start: int | None = None,
    end: int | None = None,
    step_seconds: int | None = None,
) -> Flow[Series]:
    """What the calls of a function came to over time. `start` and `end` in Unix seconds: the last
    hour by default. `step_seconds`: 10, 60, 300 or 3600.
    """
    wanted = query(**{"from": start, "to": end, "step": step_seconds})
    return on(
        function, lambda function_id: get(f"{BASE}/{segment(function_id)}/series{wanted}", Series)
    )


class FunctionMethods(WorkMethods, UrlMethods, AliasMethods, VersionFileMethods):
    """What both clients can do with functions."""

    create = Method(create_function)
    get = Method(get_function)
    list = PagedMethod(list_functions)
    list_summaries = PagedMethod(list_function_summaries)
    update = Method(update_function)
    get_with_etag = Method(get_function_with_etag)
    update_if_match = Method(update_function_if_match)
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
    list_deliveries = PagedMethod(list_deliveries)
    retry_delivery = Method(retry_delivery)
    get_pool = Method(get_pool)
    list_pools = Method(list_pools)
    get_pool_stats = Method(get_pool_stats)
    get_egress = Method(get_egress)
    list_stats = PagedMethod(list_stats)
    get_series = Method(get_series)


class Functions(FunctionMethods, OfClient):
    """`Client.functions`."""


class AsyncFunctions(FunctionMethods, OfAsyncClient):
    """`AsyncClient.functions`."""
