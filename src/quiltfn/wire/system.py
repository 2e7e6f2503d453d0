"""What a server says of itself, and the one body that every refusal has."""

from typing import Annotated, Any

from msgspec import Struct

from quiltfn.wire.fields import about
from quiltfn.wire.functions import FunctionId, Mib, TenantId

ServerVersion = Annotated[str, about("the release of quiltfn", "0.2.0")]
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
Architecture = Annotated[str, about("the processor of the server's machine", "x86_64")]
Libc = Annotated[str, about("its C library with the version, or null", "glibc 2.41")]
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
StartedAt = Annotated[int, about("when the server started, in Unix seconds", 1760000000)]
CallersTenant = Annotated[str, about("the tenant of the caller", "default")]
CallersScope = Annotated[str, about("what the caller's key may do", "write")]
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
        "what this server has: the parts of its API by their first word, the kinds of runtimes "
        "that its machine can run, gvisor and docs where they are there, and fleet where it is a "
        "node of one",
        ["events", "functions", "python", "schedules", "shell"],
    ),
]
FindingName = Annotated[str, about("one word for programs", "swap")]
FindingLevel = Annotated[str, about("ok, warn, or NO where a server cannot do without it", "warn")]
FindingSentence = Annotated[str, about("what was found", "swap is on")]
FindingAdvice = Annotated[str, about("what to do about it, or null", "swapoff -a, or encrypt it")]
NameOfFunction = Annotated[str, about("the function's name", "my-function")]
InstanceNumber = Annotated[
    int, about("its number in the function's pool there, since the start", 1)
]
VersionOfInstance = Annotated[int, about("the number of the version that it runs", 1)]
InstanceState = Annotated[
    str, about("warming, parked, ready, busy, recycling or terminating", "ready")
]
Seconds = Annotated[float, about("seconds", 42.5)]
StartReason = Annotated[
    str, about("why it was started: first, scaled_out, updated, evicted or replaced", "first")
]
Count = Annotated[int, about("how many", 3)]
NodeName = Annotated[str, about("the node's name", "node-1")]
StateOfNode = Annotated[
    str, about("what the node is to do: ready, cordoned, draining or removed", "ready")
]
PresenceOfNode = Annotated[
    str, about("present; left, if it ended in order; or gone, if it was taken over", "present")
]
IsSilentNode = Annotated[
    bool, about("whether it is present and was not heard for fleet_fence_s", False)
]
IsOwnNode = Annotated[bool, about("whether it is the node that was asked", True)]
EpochOfNode = Annotated[int, about("the number of its start, or of its take-over", 7)]
AddressOfNode = Annotated[str, about("where other nodes reach it; empty: alone", "10.0.0.7:7443")]
LagOfNode = Annotated[
    float, about("it has what other nodes changed until so many seconds ago", 0.4)
]
CountOfFunctions = Annotated[int, about("how many functions have instances or calls there", 2)]
CountOfSoleImages = Annotated[
    int, about("images of tenants that no other node has: they would go with this one", 0)
]
ErrorSentence = Annotated[str, about("what is wrong, in a sentence", "name is required")]
StableCode = Annotated[str, about("the stable name of the error", "UNPROCESSABLE_ENTITY")]
RequestOfError = Annotated[
    str, about("the x-request-id of the response", "01999999-0000-7000-8000-000000000001")
]
RetryAfter = Annotated[int, about("seconds to wait before trying again, or null", 1)]
Hint = Annotated[str, about("what to do about it, or null", None)]
FieldOfError = Annotated[
    str,
    about(
        "the path of the field that is wrong, such as cors.max_age_seconds, or the name of the "
        "query parameter or header; or null",
        "name",
    ),
]
Expected = Annotated[Any, about("what was expected", "a value")]
Received = Annotated[Any, about("what was sent, shortened", None)]
ExampleOfField = Annotated[Any, about("what would be accepted", "my-function")]
StateOfFunction = Annotated[str, about("the state of the function, or null", "paused")]
ExitCodeOfRefusal = Annotated[int, about("the exit code of what failed, or null", None)]
OperationId = Annotated[str, about("its id in the OpenAPI document", "deployFunction")]
OperationText = Annotated[
    str,
    about("how `error` or `hint` writes the request", "POST /api/functions/<id>/deploy"),
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
    """The server answers; nothing else was checked."""

    status: HealthStatus = "ok"


class SystemInfo(Struct, kw_only=True, frozen=True):
    """The server and its machine. `interpreters`: the paths of those that runtimes can use.
    `memory`: what all instances together may hold (`budget_mib`) and what counts now (`held_mib`).
    `durability`: strict where the record of a call is synced before its answer, else relaxed.
    `tenant_id` and `scope`: those of the credential that asked. `started_at` in Unix seconds.
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
    """A function on a node of a fleet, as that last said. `ready_instances`: calls that could begin
    there without a wait; `waiting_calls`: those that wait there for an instance.
    """

    function_id: FunctionId
    function_name: NameOfFunction
    tenant_id: TenantId
    version: VersionOfInstance
    ready_instances: Count
    busy_instances: Count
    waiting_calls: Count


class Node(Struct, kw_only=True, frozen=True):
    """A node of a fleet, with its load as it last said. `beat_age_seconds`: for how long the node
    that was asked has seen no beat of it. `running_calls`: those that have not ended;
    `waiting_calls`: those of them that wait for an instance. `functions`: those with instances or
    calls there, the most instances first; null where they were not asked for. Of a node that is
    silent, has left or is gone they are none.
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
    """All nodes of the fleet by name, those that left or were removed included."""

    nodes: list[Node]


class Whoami(Struct, kw_only=True, frozen=True):
    """Whose credential it is, and what the server that was asked can do. `credential`: the key's
    id, or the token's subject; `open` on a server that needs none. `expires_at` in Unix seconds;
    null: it does not expire.
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
    """One thing that was looked at on the server's machine."""

    name: FindingName
    level: FindingLevel
    sentence: FindingSentence
    advice: FindingAdvice | None


class DoctorReport(Struct, kw_only=True, frozen=True):
    """What `quiltfn doctor` finds, as far as the running server sees it, and the protections that
    are in force.
    """

    findings: list[Finding]
    protections: Protections


class Instance(Struct, kw_only=True, frozen=True):
    """One instance. `node_id`: the node that has it. `memory_mib`: what it counts in the memory
    budget: its limit while it has a call, and what it uses while it is idle.
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
    """The oldest instances of all nodes, how many there are in all, and what they share. A node of
    a fleet that does not answer within seconds is left out. `prewarmed_count`: sandboxes that are
    nobody's yet. `waiting_calls`: calls that wait for an instance. `queued_calls`: accepted work
    that waits. `memory`: `budget_mib` of all instances together, `held_mib` and `prewarmed_mib` of
    it.
    """

    instances: list[Instance]
    total_count: Count
    prewarmed_count: Count
    waiting_calls: Count
    queued_calls: Count
    memory: Memory


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

    field: FieldOfError | None = None
    expected: Expected = None
    received: Received = None
    example: ExampleOfField = None
    state: StateOfFunction | None = None
    exit_code: ExitCodeOfRefusal | None = None
    see: SeeAlsoOfError | None = None


class ErrorBody(Struct, kw_only=True, frozen=True):
    """The body of every refusal and failure. `retry_after` in seconds."""

    error: ErrorSentence
    error_code: StableCode
    request_id: RequestOfError
    details: ErrorDetails | None = None
    retry_after: RetryAfter | None = None
    hint: Hint | None = None
