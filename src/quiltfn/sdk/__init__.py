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
from quiltfn.wire import (
    AsyncPolicy,
    Attempt,
    AuditEntry,
    AuditPage,
    Backoff,
    Check,
    CreatedFunction,
    CreatedKey,
    DeadLetter,
    DeadLetterPage,
    Delivery,
    DeliveryPage,
    Destination,
    Egress,
    Function,
    FunctionChanges,
    FunctionPage,
    FunctionQueue,
    Health,
    Image,
    Invocation,
    InvocationInput,
    InvocationPage,
    Key,
    NewDestination,
    NewFunction,
    NewKey,
    NewRuntime,
    NewSchedule,
    Operation,
    PauseResult,
    Phase,
    Pool,
    PoolStats,
    RecordPolicy,
    RedriveResult,
    Runtime,
    Scaling,
    Schedule,
    SchedulePage,
    ScheduleRun,
    ScheduleRunPage,
    SystemInfo,
    Timeline,
    Version,
    VersionPage,
)

if TYPE_CHECKING:
    from quiltfn.sdk.asynchronous import AsyncClient

__all__ = [
    "ApiError",
    "AsyncClient",
    "AsyncPolicy",
    "Attempt",
    "AuditEntry",
    "AuditPage",
    "AuthenticationError",
    "Backoff",
    "Check",
    "Client",
    "ClientError",
    "ConflictError",
    "ConnectionFailed",
    "CreatedFunction",
    "CreatedKey",
    "DeadLetter",
    "DeadLetterPage",
    "Delivery",
    "DeliveryPage",
    "DeployFailed",
    "Destination",
    "Egress",
    "End",
    "Event",
    "Function",
    "FunctionChanges",
    "FunctionFailed",
    "FunctionPage",
    "FunctionQueue",
    "Gap",
    "Health",
    "Image",
    "InvalidRequestError",
    "Invocation",
    "InvocationInput",
    "InvocationPage",
    "Key",
    "NewDestination",
    "NewFunction",
    "NewKey",
    "NewRuntime",
    "NewSchedule",
    "NotFoundError",
    "NotTrusted",
    "Operation",
    "Output",
    "PauseResult",
    "PermissionDeniedError",
    "Phase",
    "Pool",
    "PoolStats",
    "RateLimitError",
    "RecordPolicy",
    "RedriveResult",
    "Runtime",
    "Scaling",
    "Schedule",
    "SchedulePage",
    "ScheduleRun",
    "ScheduleRunPage",
    "ServerError",
    "Started",
    "SystemInfo",
    "TenantEvent",
    "Timeline",
    "UnavailableError",
    "UnreadableAnswer",
    "Version",
    "VersionFailed",
    "VersionPage",
]


def __getattr__(name: str) -> Any:
    """`AsyncClient` is loaded when it is asked for: the HTTP library under it takes its time."""
    if name != "AsyncClient":
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from quiltfn.sdk.asynchronous import AsyncClient  # noqa: PLC0415

    return AsyncClient
