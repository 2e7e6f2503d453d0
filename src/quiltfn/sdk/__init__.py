"""The client library: `Client().send(requests.invoke_by_name("hello", payload="…"))`."""

from quiltfn.sdk import requests
from quiltfn.sdk.client import AsyncClient, Client
from quiltfn.sdk.errors import ApiError, ClientError, ConnectionFailed, UnreadableAnswer
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
    Info,
    Invocation,
    InvocationPage,
    Key,
    NewFunction,
    NewKey,
    Paused,
    Pool,
    PoolStats,
    Targets,
    Version,
)

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
    "Info",
    "Invocation",
    "InvocationPage",
    "Key",
    "NewFunction",
    "NewKey",
    "Paused",
    "Pool",
    "PoolStats",
    "Request",
    "Targets",
    "UnreadableAnswer",
    "Version",
    "requests",
]
