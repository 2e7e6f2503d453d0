"""Schemas of a server's state and of errors."""

from typing import Annotated, Any

from msgspec import Struct

from quiltfn.wire.fields import about
from quiltfn.wire.functions import FunctionId, Mib, TenantId

__all__ = [
    "Check",
    "DoctorReport",
    "ErrorBody",
    "ErrorDetails",
    "ExampleList",
    "Finding",
    "FunctionOnNode",
    "Health",
    "Help",
    "Instance",
    "InstanceList",
    "Liveness",
    "Node",
    "NodeList",
    "SeeAlso",
    "SystemInfo",
    "Whoami",
]

ServerVersion = Annotated[str, about("the release of quiltfn", "0.2.0")]
NodeId = Annotated[str, about("the name of the machine", "node-1")]
CgroupMode = Annotated[str, about("v2, v1 or hybrid", "v2")]
OciRuntime = Annotated[str, about("the program that creates sandboxes", "crun 1.21")]
Durability = Annotated[str, about("relaxed or strict", "relaxed")]
Protections = Annotated[
    dict[str, str],
    about("protections of the machine from handlers, by name", {"seccomp": "allowlist"}),
]
Interpreters = Annotated[
    dict[str, str],
    about("paths of interpreters, by kind of runtime", {"python": "/usr/bin/python3.13"}),
]
Architecture = Annotated[str, about("CPU architecture of the server's machine", "x86_64")]
Libc = Annotated[str, about("C library of the machine with its version, or null", "glibc 2.41")]
ServerLimits = Annotated[
    dict[str, float], about("this server's limits, by name", {"memory_limit_mb": 4096})
]
Memory = Annotated[
    dict[str, float],
    about("budget_mib and held_mib (reserved) of all instances", {"budget_mib": 4096}),
]
IsOk = Annotated[bool, about("whether the check passed", True)]
CheckReason = Annotated[str, about("result of the check", "it can be written to")]
HealthStatus = Annotated[str, about("ok or unavailable", "ok")]
IsReady = Annotated[bool, about("whether the server accepts invocations", True)]
TransportKind = Annotated[str, about("tls, cleartext or loopback", "loopback")]
StartedAt = Annotated[int, about("when the server started, in Unix seconds", 1760000000)]
CallersTenant = Annotated[str, about("the tenant of the caller", "default")]
CallersScope = Annotated[str, about("scope of the caller's key", "write")]
CallersCredential = Annotated[
    str, about("the id of the key or token", "01999999-0000-7000-8000-000000000001")
]
ExpiresAt = Annotated[int, about("when it expires, in Unix seconds, or null", None)]
NeedsCredential = Annotated[
    bool, about("whether requests need a credential here; false until the first key", True)
]
Offers = Annotated[
    list[str],
    about(
        "features of this server: parts of its API by the first word of their paths, kinds of "
        "runtimes that its machine can run, gvisor and docs if available, and fleet if it is a "
        "node of one",
        ["events", "functions", "python", "schedules", "shell"],
    ),
]
FindingName = Annotated[str, about("a code for programs", "swap")]
FindingLevel = Annotated[str, about("ok, warn, or NO if a server can't run without it", "warn")]
FindingSentence = Annotated[str, about("the finding", "swap is on")]
FindingAdvice = Annotated[str, about("suggested action, or null", "swapoff -a, or encrypt it")]
NameOfFunction = Annotated[str, about("the function's name", "my-function")]
InstanceNumber = Annotated[
    int, about("its number in the function's pool on that node, since the start", 1)
]
VersionOfInstance = Annotated[int, about("number of its version", 1)]
InstanceState = Annotated[
    str, about("warming, parked, ready, busy, recycling or terminating", "ready")
]
Seconds = Annotated[float, about("seconds", 42.5)]
StartReason = Annotated[
    str, about("reason of its start: first, scaled_out, updated, evicted or replaced", "first")
]
Count = Annotated[int, about("number", 3)]
NodeName = Annotated[str, about("the node's name", "node-1")]
StateOfNode = Annotated[
    str, about("desired state of the node: ready, cordoned, draining or removed", "ready")
]
PresenceOfNode = Annotated[
    str,
    about("present; left, if it was stopped; or gone, if it was lost and taken over", "present"),
]
IsSilentNode = Annotated[
    bool,
    about("whether it is unreachable: present, but without a heartbeat for fleet_fence_s", False),
]
IsOwnNode = Annotated[bool, about("whether it is the node that answers", True)]
EpochOfNode = Annotated[int, about("number of its start or take-over", 7)]
AddressOfNode = Annotated[
    str, about("address for other nodes; empty for a standalone server", "10.0.0.7:7443")
]
LagOfNode = Annotated[
    float, about("age in seconds of the newest changes by other nodes that it has applied", 0.4)
]
CountOfFunctions = Annotated[
    int, about("number of functions with instances or invocations there", 2)
]
CountOfSoleImages = Annotated[
    int,
    about("number of tenants' images that only this node has, and that would be lost with it", 0),
]
ErrorSentence = Annotated[str, about("the error as a sentence", "name is required")]
StableCode = Annotated[str, about("stable code of the error", "UNPROCESSABLE_ENTITY")]
RequestOfError = Annotated[
    str, about("the x-request-id of the response", "01999999-0000-7000-8000-000000000001")
]
RetryAfter = Annotated[int, about("seconds to wait before a retry, or null", 1)]
Hint = Annotated[str, about("suggested action, or null", None)]
FieldOfError = Annotated[
    str,
    about(
        "path of the invalid field, such as cors.max_age_seconds, or name of the query "
        "parameter or header; or null",
        "name",
    ),
]
Expected = Annotated[Any, about("expected value", "a value")]
Received = Annotated[Any, about("received value, shortened", None)]
ExampleOfField = Annotated[Any, about("a valid value", "my-function")]
StateOfFunction = Annotated[str, about("the state of the function, or null", "paused")]
ExitCodeOfRefusal = Annotated[int, about("exit code of the failed program, or null", None)]
OperationId = Annotated[str, about("its id in the OpenAPI document", "deployFunction")]
OperationText = Annotated[
    str,
    about("the request as written in `error` or `hint`", "POST /api/functions/<id>/deploy"),
]


class SeeAlso(Struct, kw_only=True, frozen=True):
    """A request of the API that helps."""

    operation: OperationId
    text: OperationText


SeeAlsoOfError = Annotated[
    SeeAlso,
    about(
        "the request that helps, or null",
        {"operation": "deployFunction", "text": "POST /api/functions/<id>/deploy"},
    ),
]


class Liveness(Struct, kw_only=True, frozen=True):
    """The server responds; nothing else was checked."""

    status: HealthStatus = "ok"


class SystemInfo(Struct, kw_only=True, frozen=True):
    """The server and its machine. `interpreters`: paths of interpreters that runtimes can use.
    `memory`: the memory budget of all instances (`budget_mib`), and the reserved part of it
    (`held_mib`). `durability`: strict if the record of an invocation is synced before its response,
    otherwise relaxed. `tenant_id` and `scope`: those of the caller's credential. `started_at` in
    Unix seconds.
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
    started_at: StartedAt | None = None
    architecture: Architecture | None = None
    libc: Libc | None = None


class FunctionOnNode(Struct, kw_only=True, frozen=True):
    """A function on a node of a fleet, as the node last reported. `ready_instances`: invocations
    that could start there without a wait; `waiting_calls`: invocations that wait there for an
    instance.
    """

    function_id: FunctionId
    function_name: NameOfFunction
    tenant_id: TenantId
    version: VersionOfInstance
    ready_instances: Count
    busy_instances: Count
    waiting_calls: Count


class Node(Struct, kw_only=True, frozen=True):
    """A node of a fleet, with its last reported load. `beat_age_seconds`: age of its last
    heartbeat, as seen by the responding node. `running_calls`: invocations that haven't ended;
    `waiting_calls`: those of them that wait for an instance. `functions`: those with instances or
    invocations on the node, most instances first; null if not requested; empty for a node that is
    unreachable, stopped or lost.
    """

    name: NodeName
    state: StateOfNode
    presence: PresenceOfNode
    is_own: IsOwnNode
    epoch: EpochOfNode
    version: ServerVersion
    address: AddressOfNode
    beat_age_seconds: Seconds
    running_calls: Count
    waiting_calls: Count
    memory_free_mib: Mib
    ready_instances: Count
    busy_instances: Count
    lag_seconds: LagOfNode
    sole_images: CountOfSoleImages
    function_count: CountOfFunctions
    is_silent: IsSilentNode = False
    functions: list[FunctionOnNode] | None = None


class NodeList(Struct, kw_only=True, frozen=True):
    """All nodes of the fleet, sorted by name, including stopped and removed ones."""

    nodes: list[Node]


class Whoami(Struct, kw_only=True, frozen=True):
    """The caller's credential, and the features of the responding server. `credential`: the key's
    id, or jwt: and the token's subject; `open` on a server that needs none. `expires_at` in Unix
    seconds; null: it doesn't expire.
    """

    tenant_id: CallersTenant
    scope: CallersScope
    credential: CallersCredential
    expires_at: ExpiresAt | None
    needs_credential: NeedsCredential
    version: ServerVersion
    node_id: NodeId
    offers: Offers


class Finding(Struct, kw_only=True, frozen=True):
    """One system check of the server's machine."""

    name: FindingName
    level: FindingLevel
    sentence: FindingSentence
    advice: FindingAdvice | None


class DoctorReport(Struct, kw_only=True, frozen=True):
    """The system checks of `quiltfn doctor` that the running server can do, and the protections in
    force.
    """

    findings: list[Finding]
    protections: Protections


class Instance(Struct, kw_only=True, frozen=True):
    """One instance. `node_id`: its node. `memory_mib`: its share of the memory budget: its limit
    while it has an invocation, its usage while it is idle.
    """

    function_id: FunctionId
    function_name: NameOfFunction
    tenant_id: TenantId
    node_id: NodeId
    number: InstanceNumber
    version: VersionOfInstance
    state: InstanceState
    memory_mib: Mib
    age_seconds: Seconds
    state_seconds: Seconds
    start_reason: StartReason


class InstanceList(Struct, kw_only=True, frozen=True):
    """The oldest instances of all nodes, the total number of instances, and shared resources. A
    node of a fleet that doesn't respond within seconds is left out. `prewarmed_count`: prewarmed
    sandboxes. `waiting_calls`: invocations that wait for an instance. `queued_calls`: queued
    asynchronous invocations. `memory`: `budget_mib` for all instances together; `held_mib` and
    `prewarmed_mib`: reserved parts of the budget.
    """

    instances: list[Instance]
    total_count: Count
    prewarmed_count: Count
    waiting_calls: Count
    queued_calls: Count
    memory: Memory


class Check(Struct, kw_only=True, frozen=True):
    """One check of the server's health."""

    ok: IsOk
    reason: CheckReason


class Health(Struct, kw_only=True, frozen=True):
    """`ready` is true if every check is ok. `transport`: tls, cleartext or loopback. `durability`:
    relaxed or strict.
    """

    status: HealthStatus
    ready: IsReady
    transport: TransportKind
    durability: Durability
    checks: dict[str, Check]
    protections: Protections


class ExampleList(Struct, kw_only=True, frozen=True):
    """Example requests that work as shown, in this order."""

    examples: list[dict[str, Any]]


class Help(Struct, kw_only=True, frozen=True):
    """Routes with their rules, debugging help, and common mistakes."""

    title: str
    routes: list[dict[str, Any]]
    debugging: list[str]
    common_mistakes: list[str]


class ErrorDetails(Struct, kw_only=True, frozen=True):
    """Data that helps to correct a request. Every field may be null."""

    field: FieldOfError | None = None
    expected: Expected = None
    received: Received = None
    example: ExampleOfField = None
    state: StateOfFunction | None = None
    exit_code: ExitCodeOfRefusal | None = None
    see: SeeAlsoOfError | None = None


class ErrorBody(Struct, kw_only=True, frozen=True):
    """The body of every error response. `retry_after` in seconds."""

    error: ErrorSentence
    error_code: StableCode
    request_id: RequestOfError
    details: ErrorDetails | None = None
    retry_after: RetryAfter | None = None
    hint: Hint | None = None
