"""What a server says of itself, and the one body that every refusal has."""

from typing import Annotated, Any

from msgspec import Struct

from quiltfn.wire.fields import about

ServerVersion = Annotated[str, about("the release of quiltfn", "0.1.0")]
NodeId = Annotated[str, about("the name of the machine", "node-1")]
CgroupMode = Annotated[str, about("v2, v1 or hybrid", "v2")]
OciRuntime = Annotated[str, about("the program that makes sandboxes", "crun 1.21")]
Durability = Annotated[str, about("relaxed or strict", "relaxed")]
Protections = Annotated[
    dict[str, str],
    about("what protects the machine from handlers, by name", {"seccomp": "allowlist"}),
]
Interpreters = Annotated[
    dict[str, str],
    about("the paths of interpreters, by kind of runtime", {"python": "/usr/bin/python3.13"}),
]
ServerLimits = Annotated[
    dict[str, float], about("what this server allows, by name", {"memory_limit_mb": 4096})
]
Memory = Annotated[
    dict[str, float], about("budget_mib and held_mib of all instances", {"budget_mib": 4096})
]
IsOk = Annotated[bool, about("whether the check passed", True)]
CheckReason = Annotated[str, about("what the check found", "it can be written to")]
HealthStatus = Annotated[str, about("ok or unavailable", "ok")]
IsReady = Annotated[bool, about("whether the server takes calls", True)]
TransportKind = Annotated[str, about("tls, cleartext or loopback", "loopback")]
CallersTenant = Annotated[str, about("the tenant of the caller", "default")]
CallersScope = Annotated[str, about("what the caller's key may do", "write")]
ErrorSentence = Annotated[str, about("what is wrong, in a sentence", "name is required")]
StableCode = Annotated[str, about("the stable name of the error", "UNPROCESSABLE_ENTITY")]
RequestOfError = Annotated[
    str, about("the x-request-id of the response", "01999999-0000-7000-8000-000000000001")
]
RetryAfter = Annotated[int, about("seconds to wait before trying again, or null", 1)]
Hint = Annotated[str, about("what to do about it, or null", None)]
Expected = Annotated[Any, about("what was expected", "a value")]
Received = Annotated[Any, about("what was sent, shortened", None)]
ExampleOfField = Annotated[Any, about("what would be accepted", "my-function")]
StateOfFunction = Annotated[str, about("the state of the function, or null", "paused")]
ExitCodeOfRefusal = Annotated[int, about("the exit code of what failed, or null", None)]


class Liveness(Struct, kw_only=True, frozen=True):
    """The server answers; nothing else was checked."""

    status: HealthStatus = "ok"


class SystemInfo(Struct, kw_only=True, frozen=True):
    """The server and its machine. `interpreters`: the paths of those that runtimes can use.
    `memory`: what all instances together may hold (`budget_mib`) and what counts now (`held_mib`).
    `durability`: strict where the record of a call is synced before its answer, else relaxed.
    `tenant_id` and `scope`: those of the credential that asked.
    """

    version: ServerVersion
    node_id: NodeId
    cgroup_mode: CgroupMode
    oci_runtime: OciRuntime
    durability: Durability
    protections: Protections
    interpreters: Interpreters
    limits: ServerLimits
    memory: Memory
    tenant_id: CallersTenant | None = None
    scope: CallersScope | None = None


class Check(Struct, kw_only=True, frozen=True):
    """One part of the server's health."""

    ok: IsOk
    reason: CheckReason


class Health(Struct, kw_only=True, frozen=True):
    """`ready` is true where every check is ok. `transport`: tls, cleartext or loopback.
    `durability`: relaxed or strict.
    """

    status: HealthStatus
    ready: IsReady
    transport: TransportKind
    durability: Durability
    checks: dict[str, Check]
    protections: Protections


class ExampleList(Struct, kw_only=True, frozen=True):
    """Calls that work as they are shown, in this order."""

    examples: list[dict[str, Any]]


class Help(Struct, kw_only=True, frozen=True):
    """Routes with their rules, how to find out what is wrong, what is often got wrong."""

    title: str
    routes: list[dict[str, Any]]
    debugging: list[str]
    common_mistakes: list[str]


class ErrorDetails(Struct, kw_only=True, frozen=True):
    """What helps to repair a request. Every field may be null."""

    expected: Expected = None
    received: Received = None
    example: ExampleOfField = None
    state: StateOfFunction | None = None
    exit_code: ExitCodeOfRefusal | None = None


class ErrorBody(Struct, kw_only=True, frozen=True):
    """The body of every refusal and failure. `retry_after` in seconds."""

    error: ErrorSentence
    error_code: StableCode
    request_id: RequestOfError
    details: ErrorDetails | None = None
    retry_after: RetryAfter | None = None
    hint: Hint | None = None
