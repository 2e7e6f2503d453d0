"""Schemas of functions and their versions."""

from typing import Annotated, Any

from msgspec import UNSET, Struct, UnsetType

from quiltfn.wire.aliases import Alias
from quiltfn.wire.constraints import (
    NO_NUL,
    Between,
    Bytes,
    Characters,
    Documented,
    NoneOf,
    Pattern,
    Rule,
    WithoutNul,
)
from quiltfn.wire.fields import about
from quiltfn.wire.numbers import UnixSeconds, VersionNumber

__all__ = [
    "BlockedDestination",
    "CreatedFunction",
    "Egress",
    "Function",
    "FunctionChanges",
    "FunctionPage",
    "FunctionSummary",
    "FunctionSummaryPage",
    "ListedPool",
    "NewFunction",
    "Operation",
    "PauseResult",
    "Pool",
    "PoolList",
    "PoolStats",
    "PoolTarget",
    "Rollback",
    "Scaling",
    "Version",
    "VersionPage",
]

# --- fields that a client sets -----------------------------------------------------------------

# Words in paths of the API, including those reserved for future routes.
RESERVED_FUNCTION_NAMES = frozenset(
    {"by-name", "invoke", "pool", "pools", "stats", "health", "help", "examples"}
    | {"runtimes", "schedules", "keys", "audit", "nodes"}
)
DESCRIPTION_MAX_CHARACTERS = 1024
CLUSTER_ID_MAX_CHARACTERS = 128
CLEANUP_FIELD = "cleanup_on_exit"
INSTANCES_MAX = 1000
HANDLER_MAX_BYTES = 64 * 1024
ENVIRONMENT_MAX_BYTES = 32 * 1024
RESERVED_PREFIX = "QUILT_"
MASK = "***"
PATH_MAX_BYTES = 1024
SPECIAL_TREES = ("/proc", "/sys", "/dev")
PATH_PART = "(?!\\.{1,2}(?:/|$))[^/\\u0000]+"  # a segment that is not empty, . or ..


def _wrong_directory(path: str) -> str | None:
    """The expected kind of working directory; None if `path` is valid."""
    size = len(path.encode("utf-8", "replace"))
    if not path.startswith("/") or "\0" in path or size > PATH_MAX_BYTES:
        return f"an absolute path of at most {PATH_MAX_BYTES} bytes, or null"
    if path != "/" and any(part in ("", ".", "..") for part in path[1:].split("/")):
        return "a normal path: no empty part, no . or .., no slash at the end"
    if any(path == tree or path.startswith(tree + "/") for tree in SPECIAL_TREES):
        return "outside /proc, /sys and /dev"
    return None


FunctionName = Annotated[
    str,
    about(
        "1 to 64 letters, digits, dots, dashes or underscores; starts and ends with a letter or "
        "digit; not a reserved word such as stats; unique in the tenant",
        "my-function",
        Pattern(
            "[A-Za-z0-9](?:[A-Za-z0-9._-]{0,62}[A-Za-z0-9])?",
            "1 to 64 letters, digits, dots, dashes or underscores; the first and last a "
            "letter or digit",
        ),
        NoneOf(RESERVED_FUNCTION_NAMES, "another word, since this one is part of the API's paths"),
    ),
]
ClusterId = Annotated[
    str,
    about(
        f"a label of at most {CLUSTER_ID_MAX_CHARACTERS} characters; can't be changed",
        "cluster_123",
        Characters(CLUSTER_ID_MAX_CHARACTERS),
    ),
]
Description = Annotated[
    str,
    about(
        f"at most {DESCRIPTION_MAX_CHARACTERS} characters",
        "Processes incoming data",
        Characters(DESCRIPTION_MAX_CHARACTERS),
    ),
]
Handler = Annotated[
    str,
    about(
        "code that the runtime runs, such as a command line or module:function; 1 to "
        f"{HANDLER_MAX_BYTES} bytes",
        "echo hello",
        Bytes(1, HANDLER_MAX_BYTES),
        WithoutNul(),
    ),
]
RuntimeOfFunction = Annotated[
    str,
    about(
        "the name of an existing runtime",
        "shell",
        # The existence of a runtime is checked by code that has the runtimes.
        Documented({"pattern": "^[a-z0-9](?:[a-z0-9._-]{0,62}[a-z0-9])?$"}),
    ),
]
MemoryLimitMb = Annotated[
    int,
    about(
        "memory limit in MiB, from 256 to the host's maximum",
        256,
        Between(256),
        short="memory",
        unit="MiB",
    ),
]
CpuLimitPercent = Annotated[
    float,
    about(
        "CPU limit in percent of one core, from 1 to 100 times the number of cores",
        25.0,
        Between(1),
        short="cpu",
        unit="%",
    ),
]
TimeoutSeconds = Annotated[
    int,
    about(
        "timeout in seconds, from 1 to the server's maximum; an invocation can lower its "
        "function's timeout but not raise it",
        30,
        Between(1),
        short="timeout",
        unit="s",
    ),
]
# The size limit applies to all variables together, including those of the runtime and the
# invocation, so it is checked where these are combined.
VARIABLES: dict[str, Any] = {
    "propertyNames": {"pattern": f"^(?!{RESERVED_PREFIX})[A-Za-z_][A-Za-z0-9_]*$"},
    "additionalProperties": {"type": "string", "pattern": NO_NUL, "not": {"const": MASK}},
    "maxProperties": 1000,
}
Environment = Annotated[
    dict[str, str],
    about(
        "environment variables; names have letters, digits and _, and don't start with a digit "
        f"or {RESERVED_PREFIX}; {ENVIRONMENT_MAX_BYTES} bytes in total",
        {"NODE_ENV": "production"},
        Documented(VARIABLES),
        short="env",
    ),
]
MinInstances = Annotated[
    int,
    about(
        "minimum number of instances, from 0 to the maximum",
        0,
        # The upper bound depends on another field.
        Documented({"minimum": 0, "maximum": INSTANCES_MAX}),
        short="min",
    ),
]
MaxInstances = Annotated[
    int,
    about(
        f"maximum number of instances, from 1 to {INSTANCES_MAX}",
        5,
        Between(1, INSTANCES_MAX),
        short="max",
    ),
]
CleanupOnExit = Annotated[
    bool,
    about(
        "whether /tmp and interpreter state are discarded between invocations",
        True,
        short="cleanup",
    ),
]
WorkingDirectory = Annotated[
    str,
    about(
        f"an absolute, normal path of at most {PATH_MAX_BYTES} bytes outside /proc, /sys, /dev",
        "/app",
        Rule(
            _wrong_directory,
            {
                "maxLength": PATH_MAX_BYTES,
                "pattern": f"^/(?!(?:proc|sys|dev)(?:/|$))(?:{PATH_PART}(?:/{PATH_PART})*)?$",
            },
        ),
        short="workdir",
    ),
]

# --- fields that the server sets ---------------------------------------------------------------

NextCursor = Annotated[str, about("the cursor of the next page, or null on the last one", "Zg")]
ErrorMessage = Annotated[
    str,
    about(
        "why it couldn't be deployed or updated, or null: a sentence; if only one function is "
        "shown, the last output of its program follows",
        None,
    ),
]
RuntimeOutdated = Annotated[
    bool,
    about(
        "true if its runtime was replaced after its version was created, so that the next "
        "update uses the new runtime; only then present",
        True,
    ),
]
DefaultAlias = Annotated[
    Alias,
    about(
        "the alias for invocations that name neither version nor alias; only present if there "
        "is one",
        None,
    ),
]
Note = Annotated[
    str,
    about(
        "a note by its runtime on how it runs invocations, such as why it can't fork for each, "
        "from the node that answers; only present if there is one",
        "the module starts threads when it is imported, so each invocation starts a process",
    ),
]
ImageDigest = Annotated[str, about("digest of its files", "host:3f9a")]
InstanceCount = Annotated[int, about("number of instances", 1)]
Mib = Annotated[float, about("MiB", 12.5)]


FunctionId = Annotated[str, about("the function's id", "01999999-0000-7000-8000-000000000001")]
TenantId = Annotated[str, about("the tenant that owns it", "default")]
NodeId = Annotated[str, about("the node that runs it", "node-1")]
OwnerNodeId = Annotated[
    str, about("the node that keeps its min_instances and finishes its deployments", "node-1")
]
State = Annotated[str, about("pending, deploying, active, paused or error", "active")]
InvocationCount = Annotated[int, about("number of invocations", 3)]
ErrorCount = Annotated[
    int,
    about(
        "number of invocations that didn't succeed or returned an HTTP status of 500 or higher", 0
    ),
]
VersionId = Annotated[str, about("the version's id", "01999999-0000-7000-8000-000000000001")]
IsActive = Annotated[bool, about("whether it is the current version", True)]
Success = Annotated[bool, about("always true; failures are errors", True)]
ErrorSentence = Annotated[
    str, about("the sentence of error_message, if output of its program follows there", None)
]
ErrorOutput = Annotated[str, about("that output", None)]
FailedVersion = Annotated[
    int, about("number of the new version that couldn't start, as `error_message` says", 2)
]
PauseMessage = Annotated[str, about("work that is still in progress, or null", None)]
NetworkOfFunction = Annotated[str, about("none or egress", "none")]
BlockedCount = Annotated[int, about("number of blocked connection attempts", 0)]
DestinationAddress = Annotated[str, about("an IPv4 or IPv6 address", "169.254.169.254")]
DestinationPort = Annotated[int, about("a port", 80)]
DestinationProtocol = Annotated[str, about("tcp or udp", "tcp")]
OperationId = Annotated[str, about("the operation's id", "01999999-0000-7000-8000-000000000001")]
OperationType = Annotated[str, about("kind of change", "elasticity.function_pool_target")]
ActionId = Annotated[str, about("the caller's name for the action", "action-17")]
OperationStatus = Annotated[str, about("running, succeeded or failed", "succeeded")]
ReasonCode = Annotated[str, about("code of why it failed or what it repeats, or null", None)]
ReasonMessage = Annotated[str, about("the same as a sentence, or null", None)]
Retryable = Annotated[bool, about("whether a retry with a new key may succeed", False)]


# --- requests -----------------------------------------------------------------------


class NewFunction(
    Struct, forbid_unknown_fields=True, kw_only=True, frozen=True, omit_defaults=True
):
    """A function to create. Omitted fields take their defaults."""

    name: FunctionName
    handler: Handler
    runtime: RuntimeOfFunction = "shell"
    cluster_id: ClusterId | None = None
    description: Description | None = None
    memory_limit_mb: MemoryLimitMb = 256
    cpu_limit_percent: CpuLimitPercent = 100.0
    timeout_seconds: TimeoutSeconds = 30
    environment: Environment = {}
    min_instances: MinInstances = 0
    max_instances: MaxInstances = 5
    cleanup_on_exit: CleanupOnExit = True
    working_directory: WorkingDirectory | None = None


class FunctionChanges(Struct, forbid_unknown_fields=True, kw_only=True, frozen=True):
    """Changes to a function. Omitted fields stay as they are; null resets nullable fields."""

    name: FunctionName | UnsetType = UNSET
    handler: Handler | UnsetType = UNSET
    runtime: RuntimeOfFunction | UnsetType = UNSET
    description: Description | UnsetType | None = UNSET
    memory_limit_mb: MemoryLimitMb | UnsetType = UNSET
    cpu_limit_percent: CpuLimitPercent | UnsetType = UNSET
    timeout_seconds: TimeoutSeconds | UnsetType = UNSET
    environment: Environment | UnsetType = UNSET
    min_instances: MinInstances | UnsetType = UNSET
    max_instances: MaxInstances | UnsetType = UNSET
    cleanup_on_exit: CleanupOnExit | UnsetType = UNSET
    working_directory: WorkingDirectory | UnsetType | None = UNSET


class Rollback(Struct, forbid_unknown_fields=True, kw_only=True, frozen=True):
    """The version to roll back to."""

    version: VersionNumber


class PoolTarget(Struct, forbid_unknown_fields=True, kw_only=True, frozen=True):
    """Minimum and maximum number of instances of a function."""

    min_instances: MinInstances
    max_instances: MaxInstances


# --- responses ---------------------------------------------------------------------


class Function(Struct, kw_only=True, frozen=True):
    """A function with the settings of its current version. Times in Unix seconds."""

    id: FunctionId
    tenant_id: TenantId
    cluster_id: ClusterId | None
    owner_node_id: OwnerNodeId
    name: FunctionName
    description: Description | None
    handler: Handler
    runtime: RuntimeOfFunction
    state: State
    current_version: VersionNumber
    memory_limit_mb: MemoryLimitMb
    cpu_limit_percent: CpuLimitPercent
    timeout_seconds: TimeoutSeconds
    environment: Environment
    min_instances: MinInstances
    max_instances: MaxInstances
    cleanup_on_exit: CleanupOnExit
    working_directory: WorkingDirectory | None
    created_at: UnixSeconds
    updated_at: UnixSeconds
    last_invoked_at: UnixSeconds | None
    invocation_count: InvocationCount
    error_count: ErrorCount
    error_message: ErrorMessage | None
    note: Note | UnsetType | None = UNSET
    runtime_outdated: RuntimeOutdated | UnsetType = UNSET
    default_alias: DefaultAlias | UnsetType = UNSET
    failed_version: FailedVersion | UnsetType = UNSET
    error_sentence: ErrorSentence | UnsetType = UNSET
    error_output: ErrorOutput | UnsetType = UNSET


class FunctionSummary(Struct, kw_only=True, frozen=True):
    """A function without its handler and environment. Times in Unix seconds."""

    id: FunctionId
    tenant_id: TenantId
    cluster_id: ClusterId | None
    owner_node_id: OwnerNodeId
    name: FunctionName
    description: Description | None
    runtime: RuntimeOfFunction
    state: State
    current_version: VersionNumber
    memory_limit_mb: MemoryLimitMb
    cpu_limit_percent: CpuLimitPercent
    timeout_seconds: TimeoutSeconds
    min_instances: MinInstances
    max_instances: MaxInstances
    cleanup_on_exit: CleanupOnExit
    working_directory: WorkingDirectory | None
    created_at: UnixSeconds
    updated_at: UnixSeconds
    last_invoked_at: UnixSeconds | None
    invocation_count: InvocationCount
    error_count: ErrorCount
    error_message: ErrorMessage | None
    default_alias: DefaultAlias | UnsetType = UNSET


class FunctionSummaryPage(Struct, kw_only=True, frozen=True):
    """A page of function summaries, in the requested order."""

    functions: list[FunctionSummary]
    next_cursor: NextCursor | None


class FunctionPage(Struct, kw_only=True, frozen=True):
    """A page of functions, in the requested order."""

    functions: list[Function]
    next_cursor: NextCursor | None


class CreatedFunction(Struct, kw_only=True, frozen=True):
    """Response to the creation of a function."""

    function_id: FunctionId
    name: FunctionName
    state: State
    version: VersionNumber


class PauseResult(Struct, kw_only=True, frozen=True):
    """Response to the pause of a function."""

    success: Success = True
    message: PauseMessage | None = None


class Version(Struct, kw_only=True, frozen=True):
    """An immutable version of a function. `created_at` in Unix seconds."""

    id: VersionId
    function_id: FunctionId
    version: VersionNumber
    handler: Handler
    runtime: RuntimeOfFunction
    environment: Environment
    created_at: UnixSeconds
    is_active: IsActive
    description: Description | None
    working_directory: WorkingDirectory | None
    memory_limit_mb: MemoryLimitMb
    cpu_limit_percent: CpuLimitPercent
    timeout_seconds: TimeoutSeconds
    cleanup_on_exit: CleanupOnExit
    image_digest: ImageDigest


class VersionPage(Struct, kw_only=True, frozen=True):
    """A page of versions, newest first. `next_cursor` is only present if there are more."""

    versions: list[Version]
    next_cursor: NextCursor | UnsetType | None = UNSET


class Pool(Struct, kw_only=True, frozen=True):
    """One function's instances by state. Busy includes those that are being cleaned up."""

    function_id: FunctionId
    warming_count: InstanceCount
    ready_count: InstanceCount
    busy_count: InstanceCount
    total_count: InstanceCount


class ListedPool(Pool, kw_only=True, frozen=True):
    """One function's instances in the list of pools. `parked_count`: parked instances, which are
    part of `warming_count` and kept for a rollback or the next start. `memory_mib`: the share of
    all the function's instances in the memory budget; an instance with an invocation counts with
    its limit, an idle one with its usage.
    """

    parked_count: InstanceCount
    memory_mib: Mib = 0.0


class PoolList(Struct, kw_only=True, frozen=True):
    """The pools that aren't empty, oldest function first."""

    pools: list[ListedPool]


class PoolStats(Struct, kw_only=True, frozen=True):
    """All instances of a tenant; the last six fields repeat the first six under other names."""

    total_count: InstanceCount
    warming_count: InstanceCount
    ready_count: InstanceCount
    busy_count: InstanceCount
    recycling_count: InstanceCount
    terminating_count: InstanceCount
    total_containers: InstanceCount
    warming_containers: InstanceCount
    ready_containers: InstanceCount
    busy_containers: InstanceCount
    recycling_containers: InstanceCount
    terminating_containers: InstanceCount


class BlockedDestination(Struct, kw_only=True, frozen=True):
    """The destination of a blocked connection attempt."""

    address: DestinationAddress
    port: DestinationPort
    protocol: DestinationProtocol


class Egress(Struct, kw_only=True, frozen=True):
    """A function's network access, and its blocked connection attempts since the server started.
    `blocked_destinations`: the first distinct destinations that were blocked.
    """

    function_id: FunctionId
    network: NetworkOfFunction
    blocked_count: BlockedCount
    blocked_destinations: list[BlockedDestination] = []


class Scaling(Struct, kw_only=True, frozen=True):
    """A function's current minimum and maximum number of instances."""

    function_id: FunctionId
    min_instances: MinInstances
    max_instances: MaxInstances


class Operation(Struct, kw_only=True, frozen=True):
    """A controlled change. `status`: running, succeeded or failed."""

    operation_id: OperationId
    operation_type: OperationType
    action_id: ActionId
    status: OperationStatus
    reason_code: ReasonCode | None
    reason_message: ReasonMessage | None
    retryable: Retryable
