"""Interfaces between use cases and adapters, and what each side may rely on.

`tests/contract` has suites for these interfaces and runs each on every implementation it lists.
`Sandboxes` has two: the launcher's, and a fake for tests without root. The store has one, which
works on SQLite and PostgreSQL, and which service tests use too. Doubles in unit tests are not
implementations and satisfy no contract.
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
        """Unix seconds for comparing ages: follows a jump of the wall clock an hour later."""


class ClockReading(msgspec.Struct, frozen=True, kw_only=True):
    """A reading of another machine's clock. `unix_s`: its Unix seconds; `at`: the time of the
    reading in monotonic seconds of this machine, accurate to `error_s`.
    """

    unix_s: float
    at: float
    error_s: float


class LongOutput(Protocol):
    """Memory for the output of one call, if that output is long."""

    def take(self, size: int, ready: Callable[[], None]) -> bool:
        """Return whether `size` bytes of output fit now, in total; if not, call `ready` once they
        do. Ask again whenever the output grows by a MiB.
        """
        ...


class Call(msgspec.Struct, frozen=True, kw_only=True):
    """What one call brings to a sandbox.

    `environment`: variables for this call. They are added to the version's own or, with
    `replaces_environment`, replace them. `timeout_s`: seconds from the hand-over. `long_output`
    None: output of any length fits. `output`: receives the output while the handler runs; after the
    call it equals the output in the result. `body`: the part of a request to a server that follows
    `payload`. `is_followed`: a client follows the output from the start.
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
    """Why no instance could start: a sentence for every caller. `written`: the last output of its
    program, for the function's owner alone.
    """

    def __init__(self, sentence: str, written: str = "") -> None:
        super().__init__(sentence)
        self.written = written


class SandboxRefused(StartFailed):
    """The sandbox exists, but can't become the instance that was requested."""


class SandboxFailed(Exception):
    """The sandbox could not be created; the attempt left nothing behind (a sentence)."""


class Destination(msgspec.Struct, frozen=True):
    """A destination that something in a sandbox tried to reach. `protocol`: tcp or udp."""

    address: str
    port: int
    protocol: str


class SandboxCounters(msgspec.Struct, frozen=True, kw_only=True):
    """Counters of a sandbox since its creation. `blocked`: the number of connection attempts that
    its network refused; `refused`: the destinations of the first ones, at most 64. `cpu_us`:
    microseconds of CPU time of all its processes; 0 if the host does not count that.
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
    """An isolated place for handlers. It serves one version content, one call at a time.

    `note`: a remark of its runtime on how it serves calls, once specialised; usually empty.
    """

    id: str
    note: str

    async def specialise(self, spec: VersionSpec) -> None:
        """Turn it into an instance of `spec`. Raises `SandboxRefused`; it is then unusable."""

    async def call(self, call: Call) -> CallResult:
        """Run the handler once and return how it ended; a handler that fails is a result.

        Never raises for anything that the handler or the sandbox does. A sandbox that dies during
        the call gives `ExitKind.SANDBOX_GONE`. One that misses its deadline is killed from outside
        and gives `ExitKind.DEADLINE`. If this is cancelled, the handler may still be running:
        destroy the sandbox.
        """

    def end_call(self, kind: ExitKind, by: str, call: Call | None = None) -> bool:
        """Make `call` return that result at once, and return whether a call was running. Its
        handler keeps running: destroy the sandbox next. A call that already has its result keeps
        it. `call`: only that call, if several may run; None: all of them.
        """

    @property
    def is_alive(self) -> bool:
        """Whether it can serve another call (once it is clean)."""

    @property
    def is_clean(self) -> bool:
        """Whether everything left by the last call is removed."""

    def watch(self, on_clean: Callable[[], None], on_lost: Callable[[], None]) -> None:
        """Call back when it is clean after a call, and once when it ends by itself."""

    async def used_mib(self) -> float:
        """The memory that it uses now, in MiB. Raises `SandboxFailed` if that is unknown."""

    async def counters(self) -> SandboxCounters:
        """Its counters so far, or at its end."""

    async def destroy(self) -> None:
        """Return all its resources to the machine. Safe in any state, and when repeated."""

    async def stopped(self) -> None:
        """Destroy it, and wait until all its processes have ended; some of its resources may be
        returned later.
        """


class Sandboxes(Protocol):
    """Creates sandboxes."""

    async def create(self, spec: VersionSpec) -> Sandbox:
        """A sandbox within the limits of `spec`, never used before. Raises `SandboxFailed`."""

    def expect(self, spec: VersionSpec) -> None:
        """A hint: sandboxes for this content may be needed soon."""

    def give_up(self, mib: float, freed: Callable[[], None]) -> None:
        """End that many prewarmed sandboxes, or all. `freed` is called later, once their memory no
        longer counts; it is never called if there were none.
        """


class WarmStock(Protocol):
    """Prewarmed sandboxes: ready, and not yet an instance of any version."""

    def count(self) -> int:
        """The number of prewarmed sandboxes."""

    def images(self) -> frozenset[str]:
        """The digests of the images that they have mounted."""


class StockedSandboxes(Sandboxes, WarmStock, Protocol):
    """The sandboxes of this machine, with its warm stock."""

    async def why_not(self) -> str | None:
        """Why sandboxes can't be created at the moment, a sentence; None if they can."""

    def end_by(self, at: float) -> None:
        """All sandboxes end at that time, in seconds of CLOCK_BOOTTIME, and none is created after
        it, unless a later time is set before. This holds even if this process is stopped meanwhile.
        """


class Lease(Protocol):
    """An instance held by one call. `start_timing`: of the instance's start, if the call waited for
    it.
    """

    version: Version
    start_timing: StartTiming | None

    async def call(self, call: Call) -> CallResult:
        """As `Sandbox.call`. An instance whose call did not end by itself is not used again."""


class PendingLease(AbstractAsyncContextManager[Lease], Protocol):
    """A lease that is entered to wait for an instance and to hold it."""

    def withdraw(self, error: Exception) -> None:
        """End the wait with `error`. No effect before the wait or once an instance is handed over,
        even in the step of the hand-over: the code that enters then checks whether the instance is
        still wanted.
        """

    def end_call(self, kind: ExitKind, by: str) -> bool:
        """As `Sandbox.end_call`, after entry. The instance is destroyed on exit."""

    async def ended(self) -> None:
        """After exit: if the call did not end by itself, wait until its processes have ended."""


class NotPrepared(StartFailed):
    """The instances of a version could not be made ready."""


class Preparation(Protocol):
    """A version whose instances are ready, until the end of the block (`Pools.prepared`)."""

    def promote(self, version: Version | None = None) -> bool:
        """Give the version to every new and waiting call; running calls end on theirs.

        `version`: the same spec under the number that is current by now. Returns False, without
        effect, if the pool was closed meanwhile.
        """


class InstanceView(msgspec.Struct, frozen=True, kw_only=True):
    """One instance, as an operator sees it. `number`: within its function's pool on this node.
    `memory_mib`: its share of the memory budget now. `age_s`, `in_state_s`: seconds since its start
    began, and since it entered that state. `start_reason`: why it was started.
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
    """Numbers of instances and waiting calls: on this node (`Pools`), or on all nodes."""

    def counts(self, function_id: str) -> PoolCounts:
        """The number of instances in each of the five states; zeros without a pool."""

    def occupied(self) -> Sequence[str]:
        """The ids of the functions that have an instance in any state."""

    def waiting(self) -> int:
        """The number of calls that wait for an instance, over all functions."""


class Pools(PoolCounting, Protocol):
    """The instances and the wait queue of every function on this node, and their memory.
    `tenant_instances`: the maximum number of instances of a tenant.
    """

    memory: Memory
    tenant_instances: float

    def lease(self, function_id: str, version: Version | None = None) -> PendingLease:
        """Hold an instance of the function's current version, or of the version given.

        Instances of all versions count against the function's `max_instances`. Instances of a
        version other than the current one are evicted first for a call of another version.

        Raises `CapacityFull` (the queue is full, or the call waited too long), `FunctionNotActive`
        or `NotFound` (closed while waiting), or `RuntimeUnavailable` (no instance could start).
        However the block is left, the instance is given back exactly once, even if the caller is
        cancelled in the tick in which it gets the instance.
        """

    def prepared(
        self, function_id: str, version: Version, limits: PoolLimits, count: int
    ) -> AbstractAsyncContextManager[Preparation]:
        """Inside the block, `count` instances of `version` are ready beside the current one's.

        Entering waits for them. It raises `NotPrepared` or, once the pools close, `ShuttingDown`.
        If the block is left without `promote`, for whatever reason, the pool is restored: the
        instances end, and the previous scaling targets apply. The current version is unaffected
        throughout. One preparation at a time for each function.
        """

    def headroom(self, function_id: str) -> Headroom:
        """The number of further calls of the current version that could begin without a wait; 0
        without a pool.
        """

    def load(self, function_id: str) -> PoolLoad | None:
        """The load of the function's pool; None: it has no pool that serves calls."""

    def loads(self) -> Sequence[PoolLoad]:
        """As `load`, of every pool that may have instances or has a waiting call."""

    def close(self, function_id: str, why: Closed) -> None:
        """Serve no more calls. Waiting calls are refused with `why`; running ones may finish."""

    def open(self, function_id: str, version: Version, limits: PoolLimits) -> None:
        """Serve `version` without waiting for instances, and fail a preparation in progress: for
        functions loaded at start, and those that another node changed.
        """

    def set_scaling(self, function_id: str, limits: PoolLimits) -> None:
        """Apply new scaling targets at once."""

    async def end_running(self, function_id: str, kind: ExitKind, by: str) -> None:
        """End running calls that way and wait until every instance is gone: after `close`."""

    def forget(self, function_id: str) -> None:
        """Remove the empty pool of a deleted function."""

    async def meter(self) -> None:
        """Read the counters of instances that were used since the last read."""

    def take_use(self) -> Mapping[tuple[str, str], CallStats]:
        """Usage of instances since the last call, by tenant and function, as far as their counters
        were read.
        """

    def note(self, function_id: str) -> str:
        """The remark of the current version's runtime on how it serves calls; usually empty."""

    async def egress(self, function_id: str) -> EgressRefusals:
        """Connection attempts that its instances' networks refused since the server started."""

    def instances(self, function_id: str | None = None) -> Sequence[InstanceView]:
        """Every instance, or those of one function, oldest first."""


class Page(msgspec.Struct, Generic[T], frozen=True):
    """Some items of a list, and the cursor of the next page; None after the last one."""

    items: Sequence[T]
    next_cursor: str | None = None


class TenantFunctions(msgspec.Struct, frozen=True):
    """The functions of a tenant that a list covers: those with the ids, or all."""

    tenant_id: str
    ids: Sequence[str] | None = None


PAGE_MAX_BYTES = 8 * 1024 * 1024


class InvocationQuery(msgspec.Struct, frozen=True, kw_only=True):
    """Which records to return, newest first: those of `function_id`, or of all functions of
    `tenant_id`; exactly one of the two is given.

    `cursor`: from the previous page. `since`, `until`: accepted at or after `since` and before
    `until`, in Unix seconds. `max_bytes`: the page ends after the record with which its output
    reaches that size. `with_output` False leaves the output out.
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
    """Completed invocations that wait for a commit, by function. `commits` differs after each."""

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
    """An object was created, changed or removed. `kind` None: a kind that only a later release
    knows. `object_id`: an id; the name of a runtime; the digest of an image and of its copies; the
    function's id for a URL, aliases and policies; the tenant for a quota.
    """

    number: int
    kind: ChangeKind | None
    tenant_id: str
    object_id: str


class ChangePage(msgspec.Struct, frozen=True, kw_only=True):
    """Changes, oldest first. `is_complete` False: earlier ones are no longer stored, so the reader
    has to load everything again. `has_more`: newer changes were stored by then.
    """

    items: Sequence[Change]
    is_complete: bool
    has_more: bool = False


class AuditQuery(msgspec.Struct, frozen=True, kw_only=True):
    """Which entries to return, newest first. `tenant_id` None: of all tenants. `action`: its name,
    or the part of it before the dot. `since`, `until`: made at or after `since` and before `until`,
    in Unix seconds.
    """

    tenant_id: str | None
    limit: int
    cursor: str | None = None
    action: str | None = None
    credential: str | None = None
    object_id: str | None = None
    since: int | None = None
    until: int | None = None
