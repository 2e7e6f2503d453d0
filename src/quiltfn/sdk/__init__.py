"""The client library: `Client().send(requests.invoke_by_name("hello", payload="…"))`."""

from quiltfn.sdk import requests
from quiltfn.sdk.client import AsyncClient, Client
from quiltfn.sdk.errors import ApiError, ClientError, ConnectionFailed, UnreadableAnswer
from quiltfn.sdk.requests import Request
from quiltfn.sdk.types import (
    Changes,
    Created,
    Function,
    FunctionPage,
    Invocation,
    InvocationPage,
    NewFunction,
    Paused,
    Pool,
    PoolStats,
    Version,
)

__all__ = [
    "ApiError",
    "AsyncClient",
    "Changes",
    "Client",
    "ClientError",
    "ConnectionFailed",
    "Created",
    "Function",
    "FunctionPage",
    "Invocation",
    "InvocationPage",
    "NewFunction",
    "Paused",
    "Pool",
    "PoolStats",
    "Request",
    "UnreadableAnswer",
    "Version",
    "requests",
]
