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
    AnyClient,
    Group,
    Listing,
    Method,
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
    invocation,
    listing,
    of_one,
    of_one_or_all,
    on,
)
from quiltfn.sdk.payload import key_header, new_invocation
from quiltfn.sdk.request import (
    Flow,
    Request,
    ask,
    change,
    delete,
    get,
    get_bytes,
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

# Extra time, since an invocation may wait for an instance, and its response takes a moment.
WAIT_S = 30.0
CALL_MAX_S = 86_400.0  # maximum timeout of a function, unless the server allows more


# --- functions ---------------------------------------------------------------------------------


@with_fields_of(NewFunction)
def create_function(new: NewFunction) -> Flow[CreatedFunction]:
    """Create a function with version 1. `deploy` it before you invoke it."""
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
    "last_invoked_at" or "invocation_count". `order`: "asc" or "desc". `outdated`: True: only
    functions whose runtime was replaced after their version was created; False: only the others.
    """
    return listing(BASE, FunctionPage, lambda page: page.functions, parameters_of(filters))


@with_fields_of(FunctionFilters)
def list_function_summaries(
    filters: FunctionFilters,
) -> Listing[FunctionSummaryPage, FunctionSummary]:
    """Like `list`, without handlers and environments."""
    wanted = {"view": "brief"} | parameters_of(filters)
    return listing(BASE, FunctionSummaryPage, lambda page: page.functions, wanted)


@with_name_and_fields_of(FunctionChanges)
def update_function(function: str, changes: FunctionChanges) -> Flow[Function]:
    """Update a function by creating a new version. Omitted fields stay the same; None resets
    nullable fields.

    Raises VersionFailed if the new version cannot start; the previous one stays current.
    """
    return _updated(function, changes, {})


def get_function_with_etag(function: str) -> Flow[tuple[Function, str]]:
    """One function, and the ETag of its current state, for `update_if_match`."""
    return on(function, "", lambda path: get_with_etag(path, Function))


def update_function_if_match(
    function: str, etag: str, *, default_alias: str | None = None, **changes: Any
) -> Flow[Function]:
    """Like `update`, but raises ConflictError if the function no longer has this ETag.
    `default_alias`: "keep" leaves the default alias, and its invocations, on the present version.
    """
    headers = {"If-Match": etag}
    return _updated(function, FunctionChanges(**changes), headers, default_alias)


def _updated(
    function: str,
    changes: FunctionChanges,
    headers: Mapping[str, str],
    default_alias: str | None = None,
) -> Flow[Function]:
    wanted = query(default_alias=default_alias)
    changed = yield from on(function, wanted, lambda path: change(path, Function, changes, headers))
    # This is about the new version: the server clears earlier messages before it creates a version.
    if changed.error_message is not None:
        raise VersionFailed(changed)
    return changed


def delete_function(function: str) -> Flow[None]:
    """Delete a function. Running invocations are cancelled after 5 seconds."""
    return on(function, "", delete)


def deploy_function(function: str) -> Flow[Function]:
    """Make instances ready. After 20 s the result may still have the state `deploying`.

    Raises DeployFailed if the state ends as `error`.
    """
    return _deployed(on(function, "/deploy", lambda path: post(path, Function)))


def pause_function(function: str) -> Flow[PauseResult]:
    """Refuse new synchronous invocations; asynchronous ones wait, and running ones finish."""
    return on(function, "/pause", lambda path: post(path, PauseResult))


def resume_function(function: str) -> Flow[Function]:
    """Accept invocations again after a pause. Raises DeployFailed if the state becomes `error`."""
    return _deployed(on(function, "/resume", lambda path: post(path, Function)))


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
    paging = {"limit": page_size, "cursor": cursor}
    return listing("/versions", VersionPage, lambda page: page.versions, paging, function)


def rollback_function(function: str, version: int) -> Flow[Function]:
    """Make an earlier version current again.

    Raises VersionFailed if it cannot start; the current version then stays current.
    """
    body = Rollback(version=version)
    now = yield from on(
        function, "/rollback", lambda path: post(path, Function, body, is_repeatable=True)
    )
    if now.current_version != version:
        raise VersionFailed(now)
    return now


# --- invocations ---------------------------------------------------------------------------------


def invoke_function(
    function: str,
    payload: object = None,
    *,
    environment: Mapping[str, str] | None = None,
    timeout_seconds: int | None = None,
    idempotency_key: str | None = None,
    on_disconnect: str | None = None,
) -> Flow[Invocation]:
    """Invoke a function and wait for the end of the invocation.

    `function`: its name or id, or NAME@ALIAS, or NAME@3 for its version 3, which requires scope
    `write` unless it is current or an alias names it. `payload`: a text is sent unchanged, any
    other value as JSON. A failed handler is a result, not an exception: check `status` and
    `exit_code`. With an `idempotency_key`, repeated requests run the function only once, and the
    client repeats the request if the connection is lost. `on_disconnect`: "cancel" ends the
    invocation when the connection is lost.
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
    """Invoke a function and follow the invocation: `Started`, each `Output` as it is written,
    `End`.

    The arguments are those of `invoke`. `on_disconnect`: "cancel" ends the invocation if the
    iterator is closed or the connection is lost; otherwise it continues.
    """
    body = new_invocation(payload, environment, timeout_seconds)
    headers = {} if on_disconnect is None else {"X-On-Disconnect": on_disconnect}

    def call(path: str, which: dict[str, str]) -> Flow[Any]:
        return ask(stream("POST", path + query(**which), body, headers=headers))

    return calling(function, call)


@with_name_and_fields_of(CallFilters)
def list_invocations(function: str, filters: CallFilters) -> Listing[InvocationPage, Invocation]:
    """The records of a function's invocations, newest first. `source`: such as "schedule". `since`,
    `until`: accepted at or after `since` and before `until`, each a time or Unix seconds. If only
    few of very many invocations match, a page may be short or empty.
    """
    wanted = parameters_of(filters)
    return listing("/invocations", InvocationPage, lambda page: page.invocations, wanted, function)


def get_invocation(function: str, invocation_id: str) -> Flow[Invocation]:
    """The record of one invocation."""
    return on(function, invocation(invocation_id), lambda path: get(path, Invocation))


def get_invocation_output(
    function: str,
    invocation_id: str,
    *,
    stream: str = "stdout",
    first: int = 0,
    last: int | None = None,
) -> Flow[bytes]:
    """The handler's output to `stdout` or `stderr`, from byte `first` to byte `last`.

    Raises ApiError with RANGE_NOT_SATISFIABLE if `first` is after the end.
    """
    is_whole = first == 0 and last is None
    headers = {} if is_whole else {"Range": f"bytes={first}-{'' if last is None else last}"}
    below = f"{invocation(invocation_id)}/output{query(stream=stream)}"
    return on(function, below, lambda path: get_bytes(path, headers))


def get_invocation_logs(
    function: str, invocation_id: str, *, stream: str | None = None, tail: int | None = None
) -> Flow[bytes]:
    """The current output of an invocation: both streams in order of arrival, or only `stream`.
    `tail`: only the last lines, as many as this number.
    """
    below = f"{invocation(invocation_id)}/logs{query(stream=stream, tail=tail)}"
    return on(function, below, lambda path: get_bytes(path, {"Accept": "text/plain"}))


def follow_invocation_logs(
    function: str,
    invocation_id: str,
    *,
    only: str | None = None,
    tail: int | None = None,
    after: str | None = None,
) -> Flow[Any]:
    """Follow the output of an invocation from its beginning until its `End`, even if it has already
    ended. `only`: only this stream. `tail`: begin with this number of last lines. `after`: skip
    these numbers of bytes of standard output and standard error, such as "120-0".
    """
    wanted = query(follow=True, stream=only, tail=tail, offset=after)
    below = f"{invocation(invocation_id)}/logs{wanted}"
    return on(function, below, lambda path: stream("GET", path))


def follow_function_logs(function: str, *, only: str | None = None) -> Flow[Any]:
    """Follow the output of all running and later invocations of a function, without an end."""
    wanted = query(follow=True, stream=only)
    return on(function, f"/logs{wanted}", lambda path: stream("GET", path))


def get_invocation_timeline(function: str, invocation_id: str) -> Flow[Timeline]:
    """The timeline of one invocation."""
    return on(function, f"{invocation(invocation_id)}/timeline", lambda path: get(path, Timeline))


# --- deliveries --------------------------------------------------------------------------------


def list_deliveries(
    function: str | None = None,
    *,
    cluster_id: str | None = None,
    status: str | None = None,
    page_size: int | None = None,
    cursor: str | None = None,
) -> Listing[DeliveryPage, Delivery]:
    """Past and waiting deliveries to the destinations of a function's policy, newest first; without
    a function: of all functions, or of those with the label `cluster_id`.
    """
    wanted = {"limit": page_size, "cursor": cursor, "status": status}
    return of_one_or_all(
        function, "deliveries", DeliveryPage, lambda page: page.deliveries, cluster_id, wanted
    )


def retry_delivery(function: str, delivery_id: str) -> Flow[Delivery]:
    """Retry a failed or waiting delivery at once."""
    below = f"/deliveries/{segment(delivery_id)}/retry"
    return on(function, below, lambda path: post(path, Delivery))


# --- instances ---------------------------------------------------------------------------------


def get_pool(function: str) -> Flow[Pool]:
    """The number of a function's instances, by state."""
    return on(function, "/pool", lambda path: get(path, Pool))


def list_pools(function: str | None = None) -> Flow[list[ListedPool]]:
    """The number of instances by state: of `function`, or of each function with instances."""

    def of(function_id: str | None) -> Request[PoolList]:
        return get(f"{BASE}/pools{query(function_id=function_id)}", PoolList)

    found = yield from of_one(function, of)
    return found.pools


def get_pool_stats() -> Flow[PoolStats]:
    """The number of the tenant's instances, by state."""
    return ask(get(f"{BASE}/pool/stats", PoolStats))


def get_egress(function: str) -> Flow[Egress]:
    """A function's network access, and its blocked connection attempts."""
    return on(function, "/egress", lambda path: get(path, Egress))


def list_stats(
    *, window_seconds: int | None = None, page_size: int | None = None, cursor: str | None = None
) -> Listing[FunctionStatsPage, FunctionStats]:
    """Statistics of each function's invocations in the last `window_seconds` (default: 3600);
    functions without invocations are left out.
    """
    wanted = {"window": window_seconds, "limit": page_size, "cursor": cursor}
    return listing(f"{BASE}/stats", FunctionStatsPage, lambda page: page.functions, wanted)


def get_series(
    function: str,
    *,
    start: int | None = None,
    end: int | None = None,
    step_seconds: int | None = None,
) -> Flow[Series]:
    """Statistics of a function's invocations over time. `start` and `end` in Unix seconds (default:
    the last hour). `step_seconds`: 10, 60, 300 or 3600.
    """
    wanted = query(**{"from": start, "to": end, "step": step_seconds})
    return on(function, f"/series{wanted}", lambda path: get(path, Series))


class Functions(Group[AnyClient], WorkMethods, UrlMethods, AliasMethods, VersionFileMethods):
    """`client.functions`."""

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
