"""Every request, said once: method, path, body, and how to read the answer.

Nothing here sends anything; `Client.send` and `AsyncClient.send` do, and differ in nothing else.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Generic, TypeVar
from urllib.parse import quote, urlencode

import msgspec

from quiltfn.sdk.errors import read_error
from quiltfn.sdk.types import (
    AuditPage,
    Changes,
    Created,
    Function,
    FunctionPage,
    Health,
    Image,
    Info,
    Invocation,
    InvocationPage,
    Key,
    Keys,
    NewFunction,
    NewKey,
    NewRuntime,
    Paused,
    Pool,
    PoolStats,
    Runtime,
    Runtimes,
    Targets,
    Timeline,
    VersionPage,
)

T = TypeVar("T")

READ_S = 30.0
WAIT_S = 30.0  # a call may wait in line before it runs, and its answer takes a moment
CALL_MAX_S = 86_400.0  # what a function's own timeout is at most, unless the server says more
UPLOAD_READ_S = 600.0  # the server answers once it has unpacked and kept every file


@dataclass(frozen=True, slots=True, kw_only=True)
class Request(Generic[T]):
    """One request and how its answer becomes a T. `archive`: a file that is its body instead."""

    method: str
    path: str
    read: Callable[[bytes], T]
    body: bytes | None = None
    headers: Mapping[str, str] = field(default_factory=dict)
    read_timeout_s: float = READ_S
    archive: Path | None = None

    def with_body(self) -> "Request[tuple[T, bytes]]":
        """The same request, read twice: as a T and as the bytes the server sent."""
        return Request(
            method=self.method,
            path=self.path,
            read=lambda body: (self.read(body), body),
            body=self.body,
            headers=self.headers,
            read_timeout_s=self.read_timeout_s,
            archive=self.archive,
        )

    def understand(self, status: int, headers: Mapping[str, str], body: bytes) -> T:
        """Read an answer. Raises ApiError for a refusal, and for nonsense as msgspec does."""
        if not 200 <= status < 300:
            raise read_error(status, headers, body)
        return self.read(body)


# --- functions ---------------------------------------------------------------------------------


def create(new: NewFunction, *, idempotency_key: str | None = None) -> Request[Created]:
    return _post("/api/functions", _json(Created), new, idempotency_key)


def list_functions(
    *,
    limit: int | None = None,
    cursor: str | None = None,
    state: str | None = None,
    cluster_id: str | None = None,
) -> Request[FunctionPage]:
    """One page; ask again with `cursor=page.next_cursor` until that is None."""
    query = _query(limit=limit, cursor=cursor, state=state, cluster_id=cluster_id)
    return _get(f"/api/functions{query}", _json(FunctionPage))


def get(function_id: str) -> Request[Function]:
    return _get(_function(function_id), _json(Function))


def get_by_name(name: str) -> Request[Function]:
    return _get(f"/api/functions/by-name/{_segment(name)}", _json(Function))


def update(function_id: str, changes: Changes) -> Request[Function]:
    return Request(
        method="PUT",
        path=_function(function_id),
        body=msgspec.json.encode(changes),
        read=_json(Function),
    )


def delete(function_id: str) -> Request[None]:
    return Request(method="DELETE", path=_function(function_id), read=_nothing)


def deploy(function_id: str) -> Request[Function]:
    return _post(f"{_function(function_id)}/deploy", _json(Function))


def pause(function_id: str) -> Request[Paused]:
    return _post(f"{_function(function_id)}/pause", _json(Paused))


def resume(function_id: str) -> Request[Function]:
    return _post(f"{_function(function_id)}/resume", _json(Function))


# --- versions ----------------------------------------------------------------------------------


def versions(
    function_id: str, *, limit: int | None = None, cursor: str | None = None
) -> Request[VersionPage]:
    """One page, newest first; ask again with `cursor=page.next_cursor` until that is None."""
    query = _query(limit=limit, cursor=cursor)
    return _get(f"{_function(function_id)}/versions{query}", _json(VersionPage))


def rollback(function_id: str, version: int) -> Request[Function]:
    return _post(f"{_function(function_id)}/rollback", _json(Function), {"version": version})


# --- invocations -------------------------------------------------------------------------------


def invoke(
    function_id: str,
    payload: str | None = None,
    *,
    environment: Mapping[str, str] | None = None,
    timeout_seconds: int | None = None,
    idempotency_key: str | None = None,
) -> Request[Invocation]:
    """Run the function once. A handler that fails is a result; only the platform's fault raises."""
    path = f"{_function(function_id)}/invoke"
    body = _invocation_body(payload, environment, timeout_seconds)
    return _call(path, body, idempotency_key, timeout_seconds)


def invoke_by_name(
    name: str,
    payload: str | None = None,
    *,
    environment: Mapping[str, str] | None = None,
    timeout_seconds: int | None = None,
    idempotency_key: str | None = None,
) -> Request[Invocation]:
    path = f"/api/functions/invoke/{_segment(name)}"
    body = _invocation_body(payload, environment, timeout_seconds)
    return _call(path, body, idempotency_key, timeout_seconds)


def invocations(
    function_id: str,
    *,
    limit: int | None = None,
    cursor: str | None = None,
    status: str | None = None,
    cold_start: bool | None = None,
    min_duration_ms: int | None = None,
) -> Request[InvocationPage]:
    """One page, newest first; ask again with `cursor=page.next_cursor` until that is None."""
    query = _query(
        limit=limit,
        cursor=cursor,
        status=status,
        cold_start=cold_start,
        min_duration_ms=min_duration_ms,
    )
    return _get(f"{_function(function_id)}/invocations{query}", _json(InvocationPage))


def invocation(function_id: str, invocation_id: str) -> Request[Invocation]:
    path = f"{_function(function_id)}/invocations/{_segment(invocation_id)}"
    return _get(path, _json(Invocation))


def output(
    function_id: str,
    invocation_id: str,
    *,
    stream: str = "stdout",
    first: int = 0,
    last: int | None = None,
) -> Request[bytes]:
    """What the handler wrote to `stdout` or `stderr`, byte for byte, from byte `first` to `last`.

    Raises ApiError with RANGE_NOT_SATISFIABLE where `first` lies behind the end.
    """
    path = f"{_function(function_id)}/invocations/{_segment(invocation_id)}/output"
    request = _get(path + _query(stream=stream), bytes)
    if first == 0 and last is None:
        return request
    return replace(request, headers={"Range": f"bytes={first}-{'' if last is None else last}"})


def timeline(function_id: str, invocation_id: str) -> Request[Timeline]:
    path = f"{_function(function_id)}/invocations/{_segment(invocation_id)}/timeline"
    return _get(path, _json(Timeline))


# --- the pool and the server -------------------------------------------------------------------


def pool(function_id: str) -> Request[Pool]:
    return _get(f"{_function(function_id)}/pool", _json(Pool))


def pool_stats() -> Request[PoolStats]:
    return _get("/api/functions/pool/stats", _json(PoolStats))


def set_scaling(
    function_id: str, min_instances: int, max_instances: int, *, tenant_id: str
) -> Request[Targets]:
    """Scale at once and without a new version. The tenant is the function's `tenant_id`."""
    request = _post(
        f"/api/elasticity/functions/{_segment(function_id)}/pool-target",
        _json(Targets),
        {"min_instances": min_instances, "max_instances": max_instances},
    )
    return replace(request, headers={"X-Tenant-Id": tenant_id})


def health() -> Request[Health]:
    """Ready or not, and why; `alive` says only whether the server answers at all."""
    return _get("/api/functions/health", _json(Health))


def alive() -> Request[dict[str, Any]]:
    return _get("/health", _json(dict[str, Any]))


def info() -> Request[Info]:
    """Version, node, protections in force and limits."""
    return _get("/api/system/info", _json(Info))


# --- runtimes ----------------------------------------------------------------------------------


def runtimes() -> Request[list[Runtime]]:
    """Every runtime that the tenant's functions can name, the server's own first."""
    read = _json(Runtimes)
    return _get("/api/runtimes", lambda body: read(body).runtimes)


def runtime(name: str) -> Request[Runtime]:
    return _get(f"/api/runtimes/{_segment(name)}", _json(Runtime))


def upload_image(archive: Path) -> Request[Image]:
    """Send a runtime's files: a tar archive, gzipped if its name ends in gz."""
    is_gzip = archive.suffix in (".gz", ".tgz")
    kind = "application/gzip" if is_gzip else "application/x-tar"
    return Request(
        method="POST",
        path="/api/runtimes/images",
        read=_json(Image),
        headers={"Content-Type": kind},
        read_timeout_s=UPLOAD_READ_S,
        archive=archive,
    )


def add_runtime(new: NewRuntime) -> Request[Runtime]:
    """Add a runtime to the tenant, or give its name to another one. `new.shared`: to all tenants,
    operators only."""
    return _post("/api/runtimes", _json(Runtime), new)


def remove_runtime(name: str, *, shared: bool = False) -> Request[None]:
    """Functions that have it go on with it; new versions cannot name it. `shared`: the one that all
    tenants share, operators only."""
    path = f"/api/runtimes/{_segment(name)}{_query(shared=shared or None)}"
    return Request(method="DELETE", path=path, read=_nothing)


# --- keys and the audit trail ------------------------------------------------------------------


def keys() -> Request[list[Key]]:
    """Every key of the tenant, revoked ones included; an operator sees all."""
    read = _json(Keys)
    return _get("/api/keys", lambda body: read(body).keys)


def create_key(
    *, scope: str | None = None, tenant: str | None = None, expires_seconds: int | None = None
) -> Request[NewKey]:
    """The key itself is in this answer and nowhere else."""
    given = {"scope": scope, "tenant": tenant, "expires_seconds": expires_seconds}
    body = {name: value for name, value in given.items() if value is not None}
    return _post("/api/keys", _json(NewKey), body)


def revoke_key(key_id: str) -> Request[None]:
    return Request(method="DELETE", path=f"/api/keys/{_segment(key_id)}", read=_nothing)


def audit(*, limit: int | None = None, cursor: str | None = None) -> Request[AuditPage]:
    """One page, newest first; ask again with `cursor=page.next_cursor` until that is None."""
    return _get(f"/api/audit{_query(limit=limit, cursor=cursor)}", _json(AuditPage))


# --- how they are put together -----------------------------------------------------------------


def _get(path: str, read: Callable[[bytes], T]) -> Request[T]:
    return Request(method="GET", path=path, read=read)


def _post(
    path: str, read: Callable[[bytes], T], body: object = None, idempotency_key: str | None = None
) -> Request[T]:
    return Request(
        method="POST",
        path=path,
        read=read,
        body=None if body is None else msgspec.json.encode(body),
        headers={} if idempotency_key is None else {"Idempotency-Key": idempotency_key},
    )


def _call(
    path: str, body: dict[str, Any], idempotency_key: str | None, timeout_seconds: int | None
) -> Request[Invocation]:
    """Waits as long as the call may run: what it names, or what any function may have."""
    request = _post(path, _json(Invocation), body, idempotency_key)
    runs_s = CALL_MAX_S if timeout_seconds is None else timeout_seconds
    return replace(request, read_timeout_s=runs_s + WAIT_S)


def _invocation_body(
    payload: str | None, environment: Mapping[str, str] | None, timeout_seconds: int | None
) -> dict[str, Any]:
    body = {"payload": payload, "environment": environment, "timeout_seconds": timeout_seconds}
    return {key: value for key, value in body.items() if value is not None}


def _json(kind: type[T]) -> Callable[[bytes], T]:
    return msgspec.json.Decoder(kind).decode


def _nothing(_body: bytes) -> None:
    return None


def _function(function_id: str) -> str:
    return f"/api/functions/{_segment(function_id)}"


def _segment(word: str) -> str:
    """One path segment, whatever the word holds: "." and ".." would climb, "" would vanish."""
    if not word:
        raise ValueError("a name or id must not be empty")
    encoded = quote(word, safe="")
    return encoded if encoded.strip(".") else encoded.replace(".", "%2E")


def _query(**given: str | int | bool | None) -> str:
    pairs = {
        key: str(value).lower() if isinstance(value, bool) else value
        for key, value in given.items()
        if value is not None
    }
    return f"?{urlencode(pairs)}" if pairs else ""
