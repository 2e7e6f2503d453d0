"""The client library.

    from quiltfn.sdk import Client

    client = Client()
    client.functions.create(name="hello", handler="echo hello")
    client.functions.deploy("hello")
    print(client.invoke("hello").stdout)

`AsyncClient` has the same methods for asyncio. docs/reference/python-client.md lists them.
"""

from typing import TYPE_CHECKING, Any

from quiltfn.sdk.client import Client
from quiltfn.sdk.errors import (
    ApiError,
    AuthenticationError,
    ClientError,
    ConflictError,
    ConnectionFailed,
    DeployFailed,
    FunctionFailed,
    InvalidRequestError,
    NotFoundError,
    NotTrusted,
    PermissionDeniedError,
    RateLimitError,
    ServerError,
    UnavailableError,
    UnreadableAnswer,
    VersionFailed,
)
from quiltfn.sdk.events import End, Event, Gap, Output, Started, TenantEvent
from quiltfn.wire import schemas
from quiltfn.wire.schemas import *

if TYPE_CHECKING:
    from quiltfn.sdk.asynchronous import AsyncClient

__all__ = [
    "ApiError",
    "AsyncClient",
    "AuthenticationError",
    "Client",
    "ClientError",
    "ConflictError",
    "ConnectionFailed",
    "DeployFailed",
    "End",
    "Event",
    "FunctionFailed",
    "Gap",
    "InvalidRequestError",
    "NotFoundError",
    "NotTrusted",
    "Output",
    "PermissionDeniedError",
    "RateLimitError",
    "ServerError",
    "Started",
    "TenantEvent",
    "UnavailableError",
    "UnreadableAnswer",
    "VersionFailed",
]
__all__ += [name for name in vars(schemas) if not name.startswith("_")]


def __getattr__(name: str) -> Any:
    """Load `AsyncClient` when it is first used: its HTTP library is slow to import."""
    if name != "AsyncClient":
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from quiltfn.sdk.asynchronous import AsyncClient  # noqa: PLC0415

    return AsyncClient
