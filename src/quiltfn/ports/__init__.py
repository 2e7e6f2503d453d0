"""Interfaces between use cases and adapters, and the guarantees for each side.

`Sandboxes` has two implementations: the launcher's, and a fake for tests without root;
`tests/contract` has a suite that runs on both. The store has no interface here, since it has only
one implementation, which service tests use, too; its suites run on SQLite and PostgreSQL. Doubles
in unit tests need not pass these suites.
"""

from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from enum import StrEnum
from typing import Generic, Protocol, TypeVar

import msgspec

from quiltfn.model.actions import Closed
from quiltfn.model.cold_start import ColdStartReason
from quiltfn.model.counts import Headroom
from quiltfn.model.function import Function
from quiltfn.model.instance import InstanceState
from quiltfn.model.invocation import CallResult, ExitKind, Invocation, Source, Status
from quiltfn.model.memory import Memory
from quiltfn.model.output import OutputLog
from quiltfn.model.pool import PoolCounts, PoolLimits
from quiltfn.model.pool_load import PoolLoad
from quiltfn.model.stats import CallStats
from quiltfn.model.timeline import StartTiming
from quiltfn.model.version import Version, VersionSpec
from quiltfn.ports.streamed_body import StreamedBody

T = TypeVar("T")
# Seconds before a store operation that failed is retried.
STORE_AGAIN_S = 1.0


class Clock(Protocol):
    """The time. `base/clock.py` explains when to use which method."""

    def now(self) -> float:
        """Monotonic seconds, for waits and durations; never shown to users."""

    def unix(self) -> float:
        """Unix seconds by the wall clock, which may jump: for times to display and for expiry."""

    def timestamp(self) -> float:
        """Unix seconds for the creation time of a row: the later of `unix` and `trusted`."""

    def trusted(self) -> float:
        """Unix seconds for comparing ages: follows a jump of the wall clock after an hour."""


class ClockReading(msgspec.Struct, frozen=True, kw_only=True):
    """A reading of another machine's clock. `unix_s`: its Unix seconds; `at`: the time of the
    reading in monotonic seconds of this machine, accurate to `error_s`.
    """

    unix_s: float
    at: float
    error_s: float


class LongOutput(Protocol):
    """Memory for the long output of one invocation."""

    def take(self, size: int, ready: Callable[[], None]) -> bool:
        """Return whether a total of `size` bytes of output fits now. If not, call `ready` once it
        does. Call this again whenever the output has grown by a MiB.
        """
        ...


class Call(msgspec.Struct, frozen=True, kw_only=True):
    """The data of one invocation for a sandbox.

    `environment`: variables for this invocation, in addition to the version's own or, with
    `replaces_environment`, instead of them. `timeout_s`: seconds from the hand-over.
    `long_output` None: the output needs no reserved memory. `output`: receives the output while the
    handler runs; afterwards it equals the output in the result. `body`: for a web server, the rest
    of the request's body after `payload`. `is_followed`: a client follows the output from the
    start.
    """

    payload: bytes | None
    environment: dict[str, str]
    replaces_environment: bool
    timeout_s: float
    body: StreamedBody | None = None
    long_output: LongOutput | None = None
    output: OutputLog = msgspec.field(default_factory=OutputLog)
    is_followed: bool = False


class StartFailed(Exception):
    """Why no instance could start: a sentence for every caller. `written`: the last output of the
    instance's program, only for the function's owner.
    """

    def __init__(self, sentence: str, written: str = "") -> None:
        super().__init__(sentence)
        self.written = written


class SandboxRefused(StartFailed):
    """The sandbox exists, but can't become the instance that was requested."""


class SandboxFailed(Exception):
    """The sandbox could not be created (a sentence). Nothing is left of the attempt."""


class Destination(msgspec.Struct, frozen=True):
    """A destination that something in a sandbox tried to reach. `protocol`: tcp or udp."""

    address: str
    port: int
    protocol: str


class SandboxCounters(msgspec.Struct, frozen=True, kw_only=True):
    """Counters of a sandbox since its creation. `blocked`: the number of connection attempts that
    its network refused; `refused`: the destinations of the first of these, at most 64. `cpu_us`:
    CPU time of all its processes, in microseconds; 0 if the host does not measure it.
    """

    blocked: int = 0
    cpu_us: int = 0
    refused: tuple[Destination, ...] = ()


class EgressRefusals(msgspec.Struct, frozen=True):
    """Connection attempts that the networks of a function's instances have refused since this
    server started: their number, and the first destinations.
    """

    attempts: int = 0
    destinations: Sequence[Destination] = ()


class Sandbox(Protocol):
    """An isolated place for handlers of one version spec. Runs one invocation at a time, except for
    web servers.

    `note`: once specialised, the runtime's remark on how it runs invocations; usually empty.
    """

    id: str
    note: str

    async def specialise(self, spec: VersionSpec) -> None:
        """Turn the sandbox into an instance of `spec`. Raises `SandboxRefused`; the sandbox is then
        unusable.
        """

    async def call(self, call: Call) -> CallResult:
        """Run the handler once and return how it ended. The failure of a handler is a result, too.

        Never raises for anything that the handler or the sandbox does. If the sandbox dies, the
        result has `ExitKind.SANDBOX_GONE`. If it misses its deadline, it is killed from outside,
        and the result has `ExitKind.DEADLINE`. If this is cancelled, the handler may still be
        running: destroy the sandbox.
        """

    def start(self, call: Call, on_end: Callable[[CallResult], None]) -> None:
        """As `call`, but pass the result to `on_end`, which must not raise. Not for web servers."""

    def end_call(self, kind: ExitKind, by: str, call: Call | None = None) -> bool:
        """Make the method `call` return that result at once. Returns whether an invocation was
        running; one that already has its result keeps it. The handler keeps running, so destroy the
        sandbox next. `call`: end only this invocation, if several may run; None: all of them.
        """

    @property
    def is_alive(self) -> bool:
        """Whether it can run another invocation, once it is clean."""

    @property
    def is_clean(self) -> bool:
        """Whether everything that the last invocation left is removed."""

    def watch(self, on_clean: Callable[[], None], on_lost: Callable[[], None]) -> None:
        """Call `on_clean` when it is clean after an invocation, and `on_lost` once if it ends by
        itself.
        """

    async def used_mib(self) -> float:
        """Its current memory usage in MiB. Raises `SandboxFailed` if that is unknown."""

    async def counters(self) -> SandboxCounters:
        """Its current counters, or those at its end."""

    async def destroy(self) -> None:
        """Return all its resources to the machine. Safe in any state, and when repeated."""

    async def stopped(self) -> None:
        """Destroy it, and wait until all its processes have ended; some of its resources may be
        returned later.
        """


class Sandboxes(Protocol):
    """Creates sandboxes."""

    async def create(self, spec: VersionSpec) -> Sandbox:
        """An unused sandbox within the limits of `spec`. Raises `SandboxFailed`."""

    def expect(self, spec: VersionSpec) -> None:
        """A hint that sandboxes for this spec may be needed soon."""

    def give_up(self, mib: float, freed: Callable[[], None]) -> None:
        """End prewarmed sandboxes with a total of `mib`, or all. If any are ended, `freed` is
        called once their memory no longer counts.
        """


class WarmStock(Protocol):
    """Prewarmed sandboxes, which are ready but not yet instances."""

    def count(self) -> int:
        """The number of prewarmed sandboxes."""

    def images(self) -> frozenset[str]:
        """The digests of the images that prewarmed sandboxes have mounted."""


class StockedSandboxes(Sandboxes, WarmStock, Protocol):
    """The sandboxes of this machine, with its warm stock."""

    async def why_not(self) -> str | None:
        """Why sandboxes can't be created at the moment (a sentence); None if they can."""

    def end_by(self, at: float) -> None:
        """Set the time, in seconds of CLOCK_BOOTTIME, at which all sandboxes end and after which
        none is created, even if this process is stopped. A later call may set a later time.
        """


class Lease(Protocol):
    """An instance held by one invocation. `start_timing`: that of the instance's start, if the
    invocation waited for it.
    """

    version: Version
    start_timing: StartTiming | None

    async def call(self, call: Call) -> CallResult:
        """As `Sandbox.call`. If the invocation did not end by itself, the instance is not used
        again.
        """
        ...

    def start(self, call: Call, on_end: Callable[[CallResult], None]) -> None:
        """As `Sandbox.start`."""


class PendingLease(AbstractAsyncContextManager[Lease], Protocol):
    """A lease to enter: entering waits for an instance, which the block then holds."""

    def enter_at_once(self) -> "HeldLease | None":
        """Enter with a ready instance, without a block. Returns None, without effect, if there is
        none, and for web servers.
        """

    def withdraw(self, error: Exception) -> None:
        """End the wait with `error`. No effect before the wait, or once an instance is assigned:
        the entering code must then check whether the instance is still wanted.
        """

    def end_call(self, kind: ExitKind, by: str) -> bool:
        """As `Sandbox.end_call`, after entry. The instance is destroyed on exit."""

    async def ended(self) -> None:
        """After exit: if the invocation did not end by itself, wait until its processes have
        ended.
        """


class HeldLease(PendingLease, Lease, Protocol):
    """A lease that was entered at once."""

    def leave(self) -> None:
        """Exit: return the instance."""


class NotPrepared(StartFailed):
    """The instances of a version could not be made ready."""


class Preparation(Protocol):
    """Within the block of `Pools.prepared`, a version whose instances are ready."""

    def promote(self, version: Version | None = None) -> bool:
        """Make the version current for new and waiting invocations. Running ones end on their own
        version.

        `version`: a version with the same spec and the number that has become current. Returns
        False, without effect, if the pool was closed meanwhile.
        """


class InstanceView(msgspec.Struct, frozen=True, kw_only=True):
    """One instance, as an operator sees it. `number`: its number within the function's pool on this
    node. `memory_mib`: its current share of the memory budget. `age_s`, `in_state_s`: seconds since
    its start began, and since it entered its state. `start_reason`: why it was started.
    """

    function_id: str
    number: int
    version: int
    state: InstanceState
    memory_mib: float
    age_s: float
    in_state_s: float
    start_reason: ColdStartReason


class PoolCounting(Protocol):
    """Numbers of instances and waiting invocations: on this node (`Pools`), or on all nodes."""

    def counts(self, function_id: str) -> PoolCounts:
        """The number of instances in each of the five states; all 0 without a pool."""

    def occupied(self) -> Sequence[str]:
        """The ids of the functions that have an instance in any state."""

    def waiting(self) -> int:
        """The number of invocations of all functions that wait for an instance."""


class Pools(PoolCounting, Protocol):
    """The instances and the wait queue of every function on this node, and their memory.
    `tenant_instances`: the maximum number of instances of a tenant.
    """

    memory: Memory
    tenant_instances: float

    def lease(self, function_id: str, version: Version | None = None) -> PendingLease:
        """Hold an instance of the function's current version, or of the version given.

        Instances of all versions count against the function's `max_instances`. If an invocation
        needs the place of another version's instance, versions other than the current one are
        evicted first.

        Raises `CapacityFull` (the queue is full, or the invocation waited too long),
        `FunctionNotActive` or `NotFound` (closed while waiting), or `RuntimeUnavailable` (no
        instance could start). However the block is left, the instance is returned exactly once,
        even if the caller is cancelled in the step of the event loop in which it gets the instance.
        """

    def prepared(
        self, function_id: str, version: Version, limits: PoolLimits, count: int
    ) -> AbstractAsyncContextManager[Preparation]:
        """Inside the block, `count` instances of `version` are ready in addition to the current
        version's.

        Entering waits for them, and raises `NotPrepared` or, once the pools close, `ShuttingDown`.
        If the block is left without `promote`, for any reason, the pool is restored: the instances
        end, and the previous scaling targets apply. The current version is never affected. Each
        function can have one preparation at a time.
        """

    def headroom(self, function_id: str) -> Headroom:
        """The number of further invocations of the current version that could start without a wait;
        0 without a pool.
        """

    def load(self, function_id: str) -> PoolLoad | None:
        """The load of the function's pool; None: it has no open pool."""

    def loads(self) -> Sequence[PoolLoad]:
        """As `load`, for every pool that may have instances or has waiting invocations."""

    def close(self, function_id: str, why: Closed) -> None:
        """Start no more invocations. Waiting ones are refused with `why`; running ones may
        finish.
        """

    def open(self, function_id: str, version: Version, limits: PoolLimits) -> None:
        """Make `version` current without waiting for instances, and fail a preparation in progress.
        For functions loaded at start, and those that another node changed.
        """

    def set_scaling(self, function_id: str, limits: PoolLimits) -> None:
        """Apply new scaling targets at once."""

    async def end_running(self, function_id: str, kind: ExitKind, by: str) -> None:
        """After `close`: end running invocations with the given result, and wait until all
        instances have ended.
        """

    def forget(self, function_id: str) -> None:
        """Remove the empty pool of a deleted function."""

    async def meter(self) -> None:
        """Read the counters of instances that were used since the last time."""

    def take_use(self) -> Mapping[tuple[str, str], CallStats]:
        """Return the usage of instances since the last time, by tenant and function, as far as
        counters were read.
        """

    def note(self, function_id: str) -> str:
        """The remark of the current version's runtime on how it runs invocations; usually empty."""

    async def egress(self, function_id: str) -> EgressRefusals:
        """Connection attempts that the networks of its instances have refused since the server
        started.
        """

    def instances(self, function_id: str | None = None) -> Sequence[InstanceView]:
        """All instances, or those of one function, oldest first."""


class Page(msgspec.Struct, Generic[T], frozen=True):
    """Some items of a list, and the cursor of the next page; None after the last one."""

    items: Sequence[T]
    next_cursor: str | None = None


class TenantFunctions(msgspec.Struct, frozen=True):
    """The functions of a tenant that a list is about: those with the ids, or all."""

    tenant_id: str
    ids: Sequence[str] | None = None


PAGE_MAX_BYTES = 8 * 1024 * 1024


class InvocationQuery(msgspec.Struct, frozen=True, kw_only=True):
    """Which records to return, newest first: those of `function_id`, or of all functions of
    `tenant_id`; exactly one of the two is given.

    `cursor`: from the previous page. `since`, `until`: records accepted at or after `since` and
    before `until`, in Unix seconds. `max_bytes`: the page ends once its output reaches this size.
    `with_output` False leaves the output out.
    """

    function_id: str | None = None
    tenant_id: str | None = None
    limit: int
    cursor: str | None = None
    status: Status | None = None
    cold_start: bool | None = None
    min_duration_ms: int | None = None
    source: Source | None = None
    version: int | None = None
    since: int | None = None
    until: int | None = None
    max_bytes: int = PAGE_MAX_BYTES
    with_output: bool = True


class Outline(msgspec.Struct, frozen=True, kw_only=True):
    """A record without its output. `sizes`: the stored bytes of each stream."""

    record: Invocation
    sizes: Mapping[str, int]


class FunctionCounters(msgspec.Struct, kw_only=True):
    """Number of a function's invocations. `last_invoked_at` in Unix seconds."""

    invocation_count: int = 0
    error_count: int = 0
    last_invoked_at: int | None = None

    def count(self, record: Invocation) -> None:
        """Add a completed invocation."""
        self.invocation_count += 1
        self.error_count += record.is_error
        last = record.started_at or record.ended_at
        self.last_invoked_at = max(self.last_invoked_at or 0, last or 0) or None


class Uncounted(msgspec.Struct, frozen=True, kw_only=True):
    """Completed invocations that wait for a commit, by function. `commits` differs after each
    commit.
    """

    commits: int
    counters: Mapping[str, FunctionCounters]


class StoredFunction(msgspec.Struct, frozen=True, kw_only=True):
    """A stored function, with its current version."""

    function: Function
    version: Version
    counters: FunctionCounters


class ChangeKind(StrEnum):
    """The kind of object that was changed."""

    FUNCTION = "function"
    RUNTIME = "runtime"
    KEY = "key"
    IMAGE = "image"
    URL = "url"
    POLICY = "policy"
    QUOTA = "quota"
    SCHEDULE = "schedule"
    IMAGE_COPY = "image_copy"
    ALIAS = "alias"


class Change(msgspec.Struct, frozen=True, kw_only=True):
    """An object was created, changed or removed. `kind`: None if only a later release has this
    kind. `object_id`: an id; the name of a runtime; the digest of an image and of its copies; the
    function's id for a URL, aliases and policies; the tenant for a quota.
    """

    number: int
    kind: ChangeKind | None
    tenant_id: str
    object_id: str


class ChangePage(msgspec.Struct, frozen=True, kw_only=True):
    """Changes, oldest first. `is_complete`: False if some of them are no longer stored, so that the
    reader must load everything again. `has_more`: newer changes exist.
    """

    items: Sequence[Change]
    is_complete: bool
    has_more: bool = False


class AuditQuery(msgspec.Struct, frozen=True, kw_only=True):
    """Which entries to return, newest first. `tenant_id`: None for all tenants. `action`: the name
    of an action, or the part before its dot. `since`, `until`: entries from `since` on and before
    `until`, in Unix seconds.
    """

    tenant_id: str | None
    limit: int
    cursor: str | None = None
    action: str | None = None
    credential: str | None = None
    object_id: str | None = None
    since: int | None = None
    until: int | None = None
