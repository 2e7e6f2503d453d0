"""The client library: `Client().send(requests.invoke_by_name("hello", payload="…"))`."""

from typing import TYPE_CHECKING, Any

from quiltfn.sdk import requests
from quiltfn.sdk.client import Client
from quiltfn.sdk.errors import (
    ApiError,
    ClientError,
    ConnectionFailed,
    NotTrusted,
    UnreadableAnswer,
)
from quiltfn.sdk.requests import Request
from quiltfn.sdk.types import (
    AuditEntry,
    AuditPage,
    Changes,
    Check,
    Created,
    Function,
    FunctionPage,
    Health,
    Image,
    Info,
    Invocation,
    InvocationPage,
    Key,
    NewFunction,
    NewKey,
    NewRuntime,
    Paused,
    Phase,
    Pool,
    PoolStats,
    Runtime,
    Targets,
    Timeline,
    Version,
    VersionPage,
)

if TYPE_CHECKING:
    from quiltfn.sdk.asynchronous import AsyncClient

__all__ = [
    "ApiError",
    "AsyncClient",
    "AuditEntry",
    "AuditPage",
    "Changes",
    "Check",
    "Client",
    "ClientError",
    "ConnectionFailed",
    "Created",
    "Function",
    "FunctionPage",
    "Health",
    "Image",
    "Info",
    "Invocation",
    "InvocationPage",
    "Key",
    "NewFunction",
    "NewKey",
    "NewRuntime",
    "NotTrusted",
    "Paused",
    "Phase",
    "Pool",
    "PoolStats",
    "Request",
    "Runtime",
    "Targets",
    "Timeline",
    "UnreadableAnswer",
    "Version",
    "VersionPage",
    "requests",
]


def __getattr__(name: str) -> Any:
    """`AsyncClient` is loaded when it is asked for: the HTTP library under it takes its time."""
    if name != "AsyncClient":
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from quiltfn.sdk.asynchronous import AsyncClient  # noqa: PLC0415

    return AsyncClient
