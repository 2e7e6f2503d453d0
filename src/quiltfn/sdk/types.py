"""What goes over the wire, as the caller sees it.

Fields a newer server adds are ignored, so an older client keeps working. States and statuses are
plain strings for the same reason. Times are Unix seconds, durations milliseconds.
"""

from msgspec import UNSET, Struct, UnsetType, field


class NewFunction(Struct, kw_only=True, frozen=True):
    """A function to create. What is left unset takes the server's default."""

    name: str
    handler: str
    runtime: str | UnsetType = UNSET
    cluster_id: str | UnsetType | None = UNSET
    description: str | UnsetType | None = UNSET
    memory_limit_mb: int | UnsetType = UNSET
    cpu_limit_percent: float | UnsetType = UNSET
    timeout_seconds: int | UnsetType = UNSET
    environment: dict[str, str] | UnsetType = UNSET
    min_instances: int | UnsetType = UNSET
    max_instances: int | UnsetType = UNSET
    cleanup_on_exit: bool | UnsetType = UNSET
    working_directory: str | UnsetType | None = UNSET


class Changes(Struct, kw_only=True, frozen=True):
    """What an update changes. Unset leaves a field as it is; None resets a nullable one."""

    name: str | UnsetType = UNSET
    handler: str | UnsetType = UNSET
    runtime: str | UnsetType = UNSET
    description: str | UnsetType | None = UNSET
    memory_limit_mb: int | UnsetType = UNSET
    cpu_limit_percent: float | UnsetType = UNSET
    timeout_seconds: int | UnsetType = UNSET
    environment: dict[str, str] | UnsetType = UNSET
    min_instances: int | UnsetType = UNSET
    max_instances: int | UnsetType = UNSET
    cleanup_on_exit: bool | UnsetType = UNSET
    working_directory: str | UnsetType | None = UNSET


class Created(Struct, kw_only=True, frozen=True):
    """The answer to a create."""

    function_id: str
    name: str
    state: str
    version: int


class Function(Struct, kw_only=True, frozen=True):
    """A function as it stands now, with the contents of its current version."""

    id: str
    name: str
    handler: str
    runtime: str
    state: str
    current_version: int
    memory_limit_mb: int
    cpu_limit_percent: float
    timeout_seconds: int
    min_instances: int
    max_instances: int
    cleanup_on_exit: bool
    created_at: int
    updated_at: int
    environment: dict[str, str] = field(default_factory=dict)
    tenant_id: str | None = None
    cluster_id: str | None = None
    owner_node_id: str | None = None
    description: str | None = None
    working_directory: str | None = None
    last_invoked_at: int | None = None
    invocation_count: int = 0
    error_count: int = 0
    error_message: str | None = None


class FunctionPage(Struct, kw_only=True, frozen=True):
    """Some functions, and where to go on (None at the end)."""

    functions: list[Function]
    next_cursor: str | None = None


class Version(Struct, kw_only=True, frozen=True):
    """One immutable version of a function."""

    id: str
    function_id: str
    version: int
    handler: str
    runtime: str
    created_at: int
    is_active: bool
    environment: dict[str, str] = field(default_factory=dict)
    description: str | None = None
    working_directory: str | None = None
    memory_limit_mb: int | None = None
    cpu_limit_percent: float | None = None
    timeout_seconds: int | None = None
    cleanup_on_exit: bool | None = None
    image_digest: str | None = None


class VersionPage(Struct, kw_only=True, frozen=True):
    """Some versions, newest first, and where to go on (None at the end)."""

    versions: list[Version]
    next_cursor: str | None = None


class Invocation(Struct, kw_only=True, frozen=True):
    """One call and how it ended.

    `status` is success, failed, timeout, oom, cancelled, error or interrupted once it is final.
    A handler that failed is a result like any other, not an exception.
    """

    invocation_id: str
    function_id: str
    function_name: str
    status: str
    execution_node_id: str | None = None
    started_at: int | None = None
    ended_at: int | None = None
    duration_ms: int | None = None
    exit_code: int | None = None
    stdout: str | None = None
    stderr: str | None = None
    error_message: str | None = None
    cold_start: bool | None = None


class InvocationPage(Struct, kw_only=True, frozen=True):
    """Some invocations, newest first, and where to go on (None at the end)."""

    invocations: list[Invocation]
    next_cursor: str | None = None


class Phase(Struct, kw_only=True, frozen=True):
    """A part of a call's time."""

    name: str
    microseconds: int


class Timeline(Struct, kw_only=True, frozen=True):
    """Where the time of a call went; `cold_reason`: why it had to wait for a new instance."""

    invocation_id: str
    phases: list[Phase]
    total_microseconds: int
    cold_start: bool | None = None
    cold_reason: str | None = None


class Paused(Struct, kw_only=True, frozen=True):
    """The answer to a pause."""

    success: bool
    message: str | None = None


class Pool(Struct, kw_only=True, frozen=True):
    """One function's instances, counted by state; recycling ones count as busy."""

    function_id: str
    warming_count: int
    ready_count: int
    busy_count: int
    total_count: int


class PoolStats(Struct, kw_only=True, frozen=True):
    """All the tenant's instances, counted by state."""

    total_count: int
    warming_count: int
    ready_count: int
    busy_count: int
    recycling_count: int
    terminating_count: int


class Targets(Struct, kw_only=True, frozen=True):
    """A function's scaling targets as they are now."""

    function_id: str
    min_instances: int
    max_instances: int


class Check(Struct, kw_only=True, frozen=True):
    """One part of the server's health."""

    ok: bool
    reason: str


class Health(Struct, kw_only=True, frozen=True):
    """`ready` is true where every check is ok. `transport`: tls, cleartext or loopback."""

    status: str
    ready: bool
    transport: str | None = None
    durability: str | None = None
    checks: dict[str, Check] = field(default_factory=dict)
    protections: dict[str, str] = field(default_factory=dict)


class Info(Struct, kw_only=True, frozen=True):
    """The server and its machine. `interpreters`: kinds of runtimes → paths on the server."""

    version: str
    node_id: str
    cgroup_mode: str | None = None
    oci_runtime: str | None = None
    durability: str | None = None
    protections: dict[str, str] = field(default_factory=dict)
    interpreters: dict[str, str] = field(default_factory=dict)
    limits: dict[str, float] = field(default_factory=dict)
    memory: dict[str, float] = field(default_factory=dict)


class NewRuntime(Struct, kw_only=True, frozen=True, omit_defaults=True):
    """A runtime to add. `image`: the digest that the upload of its files answered. `shared`: for
    all tenants, which needs an operator's key."""

    name: str
    kind: str
    image: str | None = None
    command: list[str] | None = None
    environment: dict[str, str] = field(default_factory=dict)
    isolation: str = "crun"
    network: str = "none"
    writable_paths: list[str] = field(default_factory=list)
    shared: bool = False


class Runtime(Struct, kw_only=True, frozen=True):
    """What a runtime's name stands for now."""

    name: str
    id: str
    kind: str
    image: str | None = None
    image_digest: str | None = None
    command: list[str] = field(default_factory=list)
    environment: dict[str, str] = field(default_factory=dict)
    isolation: str | None = None
    network: str | None = None
    writable_paths: list[str] = field(default_factory=list)
    built_in: bool = False
    shared: bool = False
    created_at: int | None = None


class Runtimes(Struct, kw_only=True, frozen=True):
    """Every runtime, the server's own first."""

    runtimes: list[Runtime]


class Image(Struct, kw_only=True, frozen=True):
    """The files of a runtime as the server has them."""

    digest: str
    files: int
    size_bytes: int


class Key(Struct, kw_only=True, frozen=True):
    """An API key without its secret."""

    id: str
    tenant_id: str
    scope: str
    prefix: str
    created_at: int
    expires_at: int | None = None
    revoked_at: int | None = None


class NewKey(Key, kw_only=True, frozen=True):
    """A key just made: `key` is shown this once, and never in a representation."""

    key: str

    def __repr__(self) -> str:
        return f"NewKey(id={self.id!r}, tenant_id={self.tenant_id!r}, scope={self.scope!r})"


class Keys(Struct, kw_only=True, frozen=True):
    """Every key of the tenant; an operator sees all."""

    keys: list[Key]


class AuditEntry(Struct, kw_only=True, frozen=True):
    """Who did what, and what came of it."""

    id: str
    at: int
    tenant_id: str
    credential: str
    action: str
    status: int
    object_id: str | None = None
    error_code: str | None = None
    address: str | None = None
    request_id: str | None = None


class AuditPage(Struct, kw_only=True, frozen=True):
    """Some entries, newest first, and where to go on (None at the end)."""

    entries: list[AuditEntry]
    next_cursor: str | None = None
