"""Interfaces between use cases and adapters, and what each side may rely on.

`tests/contract` has suites for these interfaces and runs each on every implementation it lists.
`Sandboxes` has two: the launcher's, and a fake for tests without root. The store has one, which
works on SQLite and PostgreSQL, and which service tests use too. Doubles in unit tests are not
implementations and promise nothing.
"""

from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from enum import StrEnum
from typing import Generic, Protocol, TypeVar

import msgspec

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
# How soon a store that took or said nothing is told or asked again.
STORE_AGAIN_S = 1.0


class Clock(Protocol):
    """The time. `base/clock.py` says which method is for what."""

    def now(self) -> float:
        """Monotonic seconds: for waiting and for durations, never shown to anybody."""

    def unix(self) -> float:
        """Unix seconds by the wall clock, which may jump: for what is shown or expires."""

    def timestamp(self) -> float:
        """Unix seconds for the creation time of a row: the later of `unix` and `trusted`."""

    def trusted(self) -> float:
        """Unix seconds to compare ages with: follows a jump of the wall clock after an hour."""


class ClockReading(msgspec.Struct, frozen=True, kw_only=True):
    """What another machine's clock said. `unix_s`: Unix seconds; `at`: when, in monotonic seconds
    of this machine, give or take `error_s`.
    """

    unix_s: float
    at: float
    error_s: float


class LongOutput(Protocol):
    """Room for the output of one call, should that be long."""

    def take(self, size: int, ready: Callable[[], None]) -> bool:
        """Whether there is room now for `size` bytes of it in all; if not, `ready` is called once
        there is. To be asked again whenever it is longer by a MiB.
        """
        ...


class Call(msgspec.Struct, frozen=True, kw_only=True):
    """What one call brings to a sandbox.

    `environment`: variables for this call. They are added to the version's own, or, with
    `replaces_environment`, are all there is. `timeout_s`: seconds from the hand-over. `long_output`
    None: there is room for all of it. `output`: gets the output while the handler runs; after the
    call it has what the result has. `body`: of a request to a server, what follows `payload`.
    `is_followed`: somebody waits for output from its begin on.
    """

    payload: bytes | None
    environment: dict[str, str]
    replaces_environment: bool
    timeout_s: float
    body: StreamedBody | None = None
    long_output: LongOutput | None = None
    output: OutputLog = msgspec.field(default_factory=OutputLog)
    is_followed: bool = False


class SandboxRefused(Exception):
    """The sandbox stands, but what it was asked to be is not possible in it (a sentence)."""


class SandboxFailed(Exception):
    """No sandbox could be made; nothing of the attempt is left (a sentence)."""


class Destination(msgspec.Struct, frozen=True):
    """Where something in a sandbox wanted to go. `protocol`: tcp or udp."""

    address: str
    port: int
    protocol: str


class SandboxCounters(msgspec.Struct, frozen=True, kw_only=True):
    """What is counted of a sandbox from its making on. `blocked`: how many attempts to reach
    something its network has refused; `refused`: where the first of them were to go, at most 64.
    `cpu_us`: microseconds of processor time of everything in it; 0 where the host does not count
    that.
    """

    blocked: int = 0
    cpu_us: int = 0
    refused: tuple[Destination, ...] = ()


class EgressRefusals(msgspec.Struct, frozen=True):
    """What the networks of a function's instances have refused since this server started: how many
    attempts, and where the first of them were to go.
    """

    attempts: int = 0
    destinations: Sequence[Destination] = ()


class Sandbox(Protocol):
    """The fenced place. It serves one version content, one call at a time.

    `note`: what its runtime has to say of how it serves calls, once specialised; mostly nothing.
    """

    id: str
    note: str

    async def specialise(self, spec: VersionSpec) -> None:
        """Makes it an instance of `spec`. Raises `SandboxRefused`, after which it is useless."""

    async def call(self, call: Call) -> CallResult:
        """Runs the handler once and returns how it ended; a handler that fails is a result.

        Never raises for anything that the handler or the sandbox does. A sandbox that dies during
        the call gives `ExitKind.SANDBOX_GONE`. One that misses its deadline is killed from outside
        and gives `ExitKind.DEADLINE`. If this is cancelled, the handler may still be running:
        destroy the sandbox.
        """

    def end_call(self, kind: ExitKind, by: str, call: Call | None = None) -> bool:
        """Makes `call` return that result at once, and returns whether a call was running. Its
        handler still runs: destroy the sandbox next. A call that has its result keeps it. `call`:
        that one alone, where several may run; None: all of them.
        """

    @property
    def is_alive(self) -> bool:
        """Whether it can serve another call (once it is clean)."""

    @property
    def is_clean(self) -> bool:
        """Whether nothing of the last call is left in it."""

    def watch(self, on_clean: Callable[[], None], on_lost: Callable[[], None]) -> None:
        """Calls back when it is clean after a call, and once when it ends by itself."""

    async def used_mib(self) -> float:
        """What it uses of the machine's memory now, in MiB. Raises `SandboxFailed` if not known."""

    async def counters(self) -> SandboxCounters:
        """What is counted of it so far, or was until its end."""

    async def destroy(self) -> None:
        """Gives everything back to the machine. Harmless in any state and when repeated."""

    async def stopped(self) -> None:
        """Destroys it, and waits until nothing in it runs any more, which may be earlier than all
        is given back.
        """


class Sandboxes(Protocol):
    """Where sandboxes come from."""

    async def create(self, spec: VersionSpec) -> Sandbox:
        """A sandbox within the limits of `spec`, new to everybody. Raises `SandboxFailed`."""

    def expect(self, spec: VersionSpec) -> None:
        """A hint: sandboxes for this content may be wanted soon."""

    def give_up(self, mib: float, freed: Callable[[], None]) -> None:
        """Ends so much of what is kept ready and is nobody's, or all of it. What that frees no
        longer counts when `freed` is called, some time later; never called if there is nothing."""


class WarmStock(Protocol):
    """Prewarmed sandboxes: ready, and not yet an instance of any version."""

    def count(self) -> int:
        """How many there are."""

    def images(self) -> frozenset[str]:
        """The digests of the images that they show."""


class StockedSandboxes(Sandboxes, WarmStock, Protocol):
    """The sandboxes of this machine, with its warm stock."""

    async def why_not(self) -> str | None:
        """Why no sandbox can be made at the moment, a sentence; None where one can."""

    def end_by(self, at: float) -> None:
        """Every sandbox ends at that time, in seconds of CLOCK_BOOTTIME, and none is made after it,
        unless a later time is named before; also if this process stands still meanwhile.
        """


class Lease(Protocol):
    """An instance held by one call. `start_timing`: of its start, where the call waited for it."""

    version: Version
    start_timing: StartTiming | None

    async def call(self, call: Call) -> CallResult:
        """As `Sandbox.call`. An instance whose call did not end by itself is not used again."""


class PendingLease(AbstractAsyncContextManager[Lease], Protocol):
    """A lease that is entered to wait for an instance and to hold it."""

    def withdraw(self, error: Exception) -> None:
        """Ends the wait with `error`. Does nothing before it and once an instance is handed over,
        even in the step of the hand-over: whoever enters then looks whether it is still wanted.
        """

    def end_call(self, kind: ExitKind, by: str) -> bool:
        """As `Sandbox.end_call`, once it is entered. Its instance is destroyed when it is left."""

    async def ended(self) -> None:
        """Once it was left: waits, where its call did not end by itself, until nothing of that runs
        any more.
        """


class NotPrepared(Exception):
    """The instances of a version could not be made ready; the text says why."""


class Preparation(Protocol):
    """A version whose instances are ready, until the end of the block (`Pools.prepared`)."""

    def promote(self, version: Version | None = None) -> bool:
        """From now on every new and waiting call gets the version; running calls end on theirs.

        `version`: the same spec under the number that is current by now. Without effect, and False,
        where the pool was closed meanwhile.
        """


class InstanceView(msgspec.Struct, frozen=True, kw_only=True):
    """One instance, as an operator sees it. `number`: within its function's pool on this node.
    `memory_mib`: what it counts in the memory budget now. `age_s`, `in_state_s`: since its start
    began and since it has that state, in seconds. `start_reason`: why it was started.
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
    """How many instances and waiting calls there are: on this node (`Pools`), or on all of them."""

    def counts(self, function_id: str) -> PoolCounts:
        """How many instances are in each of the five states; zeros without a pool."""

    def occupied(self) -> Sequence[str]:
        """The ids of the functions that have an instance in any state."""

    def waiting(self) -> int:
        """How many calls wait for an instance, over all functions."""


class Pools(PoolCounting, Protocol):
    """The instances and the wait queue of every function on this node, and their memory.
    `tenant_instances`: how many instances each tenant may have.
    """

    memory: Memory
    tenant_instances: float

    def lease(self, function_id: str, version: Version | None = None) -> PendingLease:
        """Holds an instance of the function's current version, or of the one given.

        Instances of all versions are within the function's `max_instances`. Those of a version
        that is not the current one are the first to be ended for a call of another one.

        Raises `CapacityFull` (the queue is full, or the call waited too long), `FunctionNotActive`
        or `NotFound` (closed while waiting), or `RuntimeUnavailable` (no instance could be made).
        However the block is left, the instance is given back exactly once, also if the caller is
        cancelled in the tick in which it gets the instance.
        """

    def prepared(
        self, function_id: str, version: Version, limits: PoolLimits, count: int
    ) -> AbstractAsyncContextManager[Preparation]:
        """Inside the block `count` instances of `version` are ready beside what serves.

        Entering waits for them. It raises `NotPrepared` or, once the pools close, `ShuttingDown`.
        If the block is left without `promote`, for whatever reason, the pool goes back to what it
        was: the instances end, and the scaling targets are the ones from before. What serves is
        not touched by any of this. One preparation at a time for each function.
        """

    def headroom(self, function_id: str) -> Headroom:
        """How many more calls of the current version could begin without a wait; none without a
        pool."""

    def load(self, function_id: str) -> PoolLoad | None:
        """How loaded the function's pool is; None: it has none that serves calls."""

    def loads(self) -> Sequence[PoolLoad]:
        """As `load`, of every pool that may have instances or has a call that waits."""

    def close(self, function_id: str, why: str) -> None:
        """Serves no more calls. Waiting calls are refused for `why`; running ones may finish."""

    def open(self, function_id: str, version: Version, limits: PoolLimits) -> None:
        """Serves `version` without waiting for instances, and fails a preparation that is under
        way: for functions loaded at start, and those that another node changed.
        """

    def set_scaling(self, function_id: str, limits: PoolLimits) -> None:
        """New scaling targets, at once."""

    async def end_running(self, function_id: str, kind: ExitKind, by: str) -> None:
        """Ends running calls that way and waits until every instance is gone: after `close`."""

    def forget(self, function_id: str) -> None:
        """Removes the empty pool of a deleted function."""

    async def meter(self) -> None:
        """Reads the counters of instances that have run something since it was done last."""

    def take_use(self) -> Mapping[tuple[str, str], CallStats]:
        """What instances have used since the last time, as far as their counters were read: by
        tenant and function.
        """

    def note(self, function_id: str) -> str:
        """What the runtime of the version that serves has to say of how it does; mostly nothing."""

    async def egress(self, function_id: str) -> EgressRefusals:
        """What the networks of its instances have refused since this server started."""

    def instances(self, function_id: str | None = None) -> Sequence[InstanceView]:
        """Every instance, or those of one function, the oldest first."""


class Page(msgspec.Struct, Generic[T], frozen=True):
    """Some items of a list, and the cursor of the next page; None after the last one."""

    items: Sequence[T]
    next_cursor: str | None = None


class TenantFunctions(msgspec.Struct, frozen=True):
    """Functions of a tenant that a list is about: those of the ids, or all."""

    tenant_id: str
    ids: Sequence[str] | None = None


PAGE_MAX_BYTES = 8 * 1024 * 1024


class InvocationQuery(msgspec.Struct, frozen=True, kw_only=True):
    """Which records to return, newest first: those of `function_id`, or of all functions of
    `tenant_id`; exactly one of the two is given.

    `cursor`: from the page before. `since`, `until`: accepted at or after the one and before the
    other, in Unix seconds. `max_bytes`: the page ends after the record with which its output
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
    """A record without its output. `sizes`: the bytes of each stream that it has."""

    record: Invocation
    sizes: Mapping[str, int]


class FunctionCounters(msgspec.Struct, kw_only=True):
    """How often a function was called. `last_invoked_at` in Unix seconds."""

    invocation_count: int = 0
    error_count: int = 0
    last_invoked_at: int | None = None

    def count(self, record: Invocation) -> None:
        """Adds a completed invocation."""
        self.invocation_count += 1
        self.error_count += record.is_error
        last = record.started_at or record.ended_at
        self.last_invoked_at = max(self.last_invoked_at or 0, last or 0) or None


class Uncounted(msgspec.Struct, frozen=True, kw_only=True):
    """Completed invocations that wait for a commit, by function. `commits` differs after each."""

    commits: int
    counters: Mapping[str, FunctionCounters]


class StoredFunction(msgspec.Struct, frozen=True, kw_only=True):
    """A function as the store has it, with its current version."""

    function: Function
    version: Version
    counters: FunctionCounters


class ChangeKind(StrEnum):
    """What a change was made to."""

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
    """Something was made, changed or removed. `kind` None: of a kind that a later release has, of
    which this one knows nothing. `object_id`: an id; of a runtime its name, of an image and of
    its copies the digest, of a URL, of aliases and of policies the function's id, and of a quota
    the tenant's.
    """

    number: int
    kind: ChangeKind | None
    tenant_id: str
    object_id: str


class ChangePage(msgspec.Struct, frozen=True, kw_only=True):
    """Changes, oldest first. `is_complete` is False if earlier ones are no longer stored: then the
    reader has to load everything again. `has_more`: whether newer ones were stored by then.
    """

    items: Sequence[Change]
    is_complete: bool
    has_more: bool = False


class AuditQuery(msgspec.Struct, frozen=True, kw_only=True):
    """Which entries to return, newest first. `tenant_id` None: of all tenants. `action`: its name,
    or the part of it before the dot. `since`, `until`: made at or after the one and before the
    other, in Unix seconds.
    """

    tenant_id: str | None
    limit: int
    cursor: str | None = None
    action: str | None = None
    credential: str | None = None
    object_id: str | None = None
    since: int | None = None
    until: int | None = None
