"""The interfaces between the verbs and everything that does I/O, and what each side may rely on.

`tests/contract` has suites for these interfaces and runs each on every implementation it lists.
`Sandboxes` has two: the launcher's, and a fake for tests without root. The store has one, which
works on SQLite and PostgreSQL, and which service tests use too. Doubles in unit tests are not
implementations and promise nothing.
"""

from collections.abc import AsyncGenerator, AsyncIterator, Callable, Collection, Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from enum import StrEnum
from typing import Generic, Protocol, TypeVar

import msgspec

from quiltfn.model.access import Key, Scope
from quiltfn.model.alias import Alias
from quiltfn.model.audit import AuditEntry
from quiltfn.model.cold_start import ColdStartReason
from quiltfn.model.counts import Headroom
from quiltfn.model.function import Function
from quiltfn.model.idempotency import NO_HEADERS, IdempotentRequest, StoredResponse
from quiltfn.model.image import Archive, Contents, Image, ImageFile, Package, TenantImage
from quiltfn.model.instance import InstanceState
from quiltfn.model.invocation import CallResult, ExitKind, Invocation, Source, Status
from quiltfn.model.memory import Memory
from quiltfn.model.operation import Operation
from quiltfn.model.output import OutputLog
from quiltfn.model.pool import PoolCounts, PoolLimits
from quiltfn.model.pool_load import PoolLoad
from quiltfn.model.retention import RetentionPolicy
from quiltfn.model.runtime import Runtime
from quiltfn.model.stats import CallStats
from quiltfn.model.timeline import StartTiming
from quiltfn.model.version import Version, VersionSpec
from quiltfn.ports.streamed_body import StreamedBody

T = TypeVar("T")
# How soon a store that took or said nothing is told or asked again.
STORE_AGAIN_S = 1.0


async def no_others() -> None:
    """What a server does to catch up with others while there are none."""


class Clock(Protocol):
    """The time. `clock.py` says which method is for what."""

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

    def end_call(self, kind: ExitKind, reason: str, call: Call | None = None) -> bool:
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

    def end_call(self, kind: ExitKind, reason: str) -> bool:
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

    async def end_running(self, function_id: str, kind: ExitKind, reason: str) -> None:
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


class Store(Protocol):
    """Functions and their versions. When a write returns, it is on disk.

    Every method raises `StoreUnavailable` if the database does not answer. Nothing has changed
    then.
    """

    async def load(self, only: Collection[str] | None = None) -> Sequence[StoredFunction]:
        """Every function that is not deleted, or those of them that have one of these ids."""

    async def counters(self) -> Mapping[str, FunctionCounters]:
        """The counters of every function, by its id."""

    async def find(self, function_id: str) -> StoredFunction | None:
        """One function; None if it was deleted or never made."""

    async def newest_change(self) -> int:
        """The number of the newest change. Ask for it before `load`, then follow from there."""

    async def changes(self, since: int, limit: int = 1000) -> ChangePage:
        """The changes of shared state after the one with that number, by any server."""

    async def create(self, function: Function, version: Version) -> None:
        """Stores both. Raises `Conflict` if the tenant has a function of that name."""

    async def save(
        self,
        function: Function,
        version: Version | None = None,
        move: Callable[[Alias], Alias] | None = None,
    ) -> Function:
        """Stores the changed function and, if given, its new version, in one transaction, and in it
        what `move` makes of each of its aliases.

        Returns the function with its new revision. Raises `Outdated`, a `Conflict`, unless
        `function.revision` is the newest, and `NotFound` if it was deleted.
        """

    async def delete(self, function_id: str) -> None:
        """Removes the function, its versions and its records. Its name is free at once."""

    async def versions(
        self, function_id: str, after: str | None = None, limit: int = 1000
    ) -> Page[Version]:
        """Up to `limit` versions, newest first, that come after the one with the id `after`. Long
        versions make a page shorter; it has at least one.
        """

    async def version(self, function_id: str, number: int) -> Version | None:
        """One version, or None."""

    async def newest_number(self, function_id: str) -> int:
        """The number of the newest version; 0 without any."""

    def condition(self) -> tuple[bool, str]:
        """Whether the data is undamaged, as far as is known, and a message for the operator."""

    async def ping(self) -> None:
        """Raises `StoreUnavailable` unless the database takes a write now."""


class Journal(Protocol):
    """The records of calls. A record that was written survives `kill -9` of the server.

    `is_strict`: it survives a power cut too, since a call is answered only after `synced`.
    """

    is_strict: bool

    @property
    def problem(self) -> str | None:
        """Why the last write to the database failed, of records or anything else; None if it did
        not.
        """

    def stalled_s(self) -> float:
        """For how many seconds the event loop has been waiting in a write to the disk; 0 if it is
        not. Called from another thread.
        """

    @property
    def refuses(self) -> bool:
        """Whether `opened` would refuse a call at the moment, as far as is known."""
        ...

    @property
    def is_behind(self) -> bool:
        """Whether so much waits to be stored that nothing is to be written that can be left out."""
        ...

    def opened(self, record: Invocation) -> None:
        """Writes that a handler gets the call next. Raises `StoreUnavailable`: refuse the call."""

    def closed(self, record: Invocation) -> None:
        """Writes the end of the call. Raises `StoreUnavailable` if that failed."""

    def amended(self, record: Invocation) -> None:
        """Replaces the record that `closed` has just written, for example by how long that took.

        It costs no write and never fails. `kill -9` before the next group commit may undo it.
        """

    async def drain(self) -> None:
        """Waits while too much is to be committed; returns at once if commits fail."""

    async def synced(self) -> None:
        """Waits until everything written so far is committed: synced, and found by queries."""

    def is_unstored(self, invocation_id: str) -> bool:
        """Whether this server knows something of the call that is not committed yet."""
        ...

    def uncounted(self) -> "Uncounted | None":
        """What the counters in the database do not have yet; None while a commit is under way."""

    async def get(self, function_id: str, invocation_id: str) -> Invocation | None:
        """One record, including what is not committed yet; where the journal is strict, an end is
        committed first. Raises `StoreUnavailable` if that fails.
        """

    async def outline(self, function_id: str, invocation_id: str) -> Outline | None:
        """As `get`, one record without its output, and how long that is."""

    async def read_output(
        self, function_id: str, invocation_id: str, stream: str, start: int, size: int
    ) -> bytes:
        """A part of the output of one call; the rest of it is not loaded. Less than was asked for,
        or nothing, where there is no more.
        """

    async def query(self, query: InvocationQuery) -> Page[Invocation]:
        """Records, newest first. A page may have fewer than `limit`, or none, and a cursor all the
        same, where few of very many match. Raises `Unprocessable` for an invalid cursor.
        """

    async def children(self, tenant_id: str, invocation_id: str, most: int) -> Sequence[Invocation]:
        """The newest `most` calls that a call of the tenant has caused, oldest first, without their
        output.
        """

    async def function_of(self, tenant_id: str, invocation_id: str) -> str | None:
        """The id of the function that a call of the tenant is of; None where either is gone."""


class Retention(Protocol):
    """Removes records, oldest first; none of a running call, none of the last minute."""

    async def prune_some(self, keep: RetentionPolicy) -> int:
        """Removes some, for a millisecond, so that other writes hardly wait. Returns how many: 0 if
        the policy allows all that are left. Raises `StoreUnavailable`.
        """


class Keys(Protocol):
    """API keys, including revoked and expired ones. Raises `StoreUnavailable` as the store does.

    `quiltfn keys` changes them beside a running server, which notices that by `revision`.
    """

    async def revision(self) -> int:
        """A number that increases with every change, by whichever process."""

    def change_token(self) -> object:
        """A value that differs after every change, by whichever process, except on a full disk.

        It costs a microsecond, does not ask the database and never raises.
        """

    async def load(self) -> Sequence[Key]:
        """All keys, oldest first."""

    async def page(self, tenant_id: str | None, limit: int, cursor: str | None) -> Page[Key]:
        """Up to `limit` keys of the tenant, oldest first; None: of all tenants. Raises
        `Unprocessable` for a cursor that no page gave.
        """

    async def add(self, key: Key, first_scope: Scope | None = None) -> Key:
        """Stores a new key and returns it. The first key of all gets `first_scope`, if given: of
        several that are added at the same time, exactly one. Raises `RateLimited` if the tenant has
        `TENANT_KEYS_MAX` valid keys, and `CapacityFull` if all have `KEYS_MAX`. Of those that are
        not valid any more, only as many are kept, the newest.
        """

    async def revoke(self, key: Key, now: int) -> Key:
        """Revokes a key for good and returns it as it is then."""


class IdempotencyStore(Protocol):
    """The first answer to each request with an `Idempotency-Key`, kept for 24 hours."""

    async def reserve(
        self,
        request: IdempotentRequest,
        now: int,
        made_at: int | None = None,
        headers: Mapping[str, str] = NO_HEADERS,
        again: bool = False,
    ) -> StoredResponse | None:
        """Reserves the key for a first call (None: go ahead) or returns what is there, in one step.

        It is on disk before this returns, so a crash cannot let the call run twice. `now`: trusted
        time; `made_at`: time stamp of the row, if another. A call that still runs keeps its key.
        `headers`: of what is answered in its place if the server ends before it. `again`: a call
        that this server reserved the key for does not run, since it never heard that it had.
        """

    async def complete(
        self, request: IdempotentRequest, status: int, headers: dict[str, str], body: bytes
    ) -> None:
        """Stores the response to the first call."""

    async def release(self, request: IdempotentRequest) -> None:
        """Frees the key: the call was refused before it was executed."""

    async def prune(self, now: int) -> int:
        """Removes responses older than 24 hours, in small steps; returns how many."""


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


class Audit(Protocol):
    """The audit log: every call that changed something, or was refused to."""

    async def append(self, entry: AuditEntry) -> None:
        """Stores an entry; it is on disk when this returns."""

    async def query(self, query: AuditQuery) -> Page[AuditEntry]:
        """Entries, newest first. A page may have fewer than `limit`, or none, and a cursor all the
        same, where few of very many match. A bad cursor raises `Unprocessable`.
        """

    async def prune(self, before: int) -> int:
        """Removes entries from before that time, in small steps; returns how many."""


class Operations(Protocol):
    """Changes of scaling targets, each made once for its tenant and idempotency key."""

    async def add(self, operation: Operation) -> Operation | None:
        """Stores it (None), or returns the tenant's earlier one with the same idempotency key."""

    async def finish(self, operation: Operation) -> None:
        """Stores its end."""

    async def forget(self, operation_id: str) -> None:
        """Removes one that was not begun, if it is there."""

    async def interrupted(self) -> Sequence[Operation]:
        """Those that were running when this server ended before its present start."""

    async def finish_interrupted(self, ended: Sequence[Operation]) -> None:
        """Stores the ends of those, at a start. On a full disk `add` and `get` return them at once,
        and they are stored when there is room.
        """

    async def prune(self, before: int) -> int:
        """Removes those that ended and are from before that time; returns how many."""

    async def get(self, tenant_id: str, operation_id: str) -> Operation | None:
        """One operation of the tenant."""


class RuntimeStore(Protocol):
    """The runtimes of each tenant by name; those of the tenant `SHARED` are for all tenants.
    Raises `StoreUnavailable`.
    """

    async def load(self, tenants: Collection[str] | None = None) -> Sequence[tuple[str, Runtime]]:
        """All pairs of tenant and runtime, or those of these tenants."""

    async def save(self, tenant_id: str, runtime: Runtime) -> bool:
        """Adds or replaces the runtime of that name, unless it names an image that the tenant does
        not have; whether it has done so. Its base image may be one of all tenants. Versions keep
        their runtime snapshots.
        """

    async def remove(self, tenant_id: str, name: str) -> None:
        """Removes the runtime of that name, if there is one."""

    async def images_in_use(self) -> frozenset[tuple[str, str]]:
        """Pairs of tenant and digest: each image that a runtime or a version of theirs names."""


class TenantImageStore(Protocol):
    """Which tenant has which images. Raises `StoreUnavailable`."""

    async def load(self, digests: Collection[str] | None = None) -> Sequence[TenantImage]:
        """All of them, or those with these digests, whoever has them."""

    async def add(self, one: TenantImage, quota_bytes: int | None = None) -> bool:
        """Gives the tenant the image, unless all of its images would then count more than
        `quota_bytes`; whether it has it now. What it had already it keeps.
        """

    async def remove(self, tenant_id: str, digest: str) -> bool:
        """Takes the image from the tenant, unless a runtime or a version of the tenant names it, or
        for `SHARED` one of any tenant. Returns whether the tenant is without it now.
        """


class Images(Protocol):
    """The files that runtimes show at /app, by the digest of their content."""

    async def take(
        self,
        archive: Archive,
        chunks: AsyncIterator[bytes],
        admit: Callable[[Image], None],
        contents: Contents = Contents.FILES,
        tenant_id: str = "",
    ) -> Image:
        """Unpacks an archive; the image is on disk when this returns. Tenants take turns, here and
        in `files`, `read` and `packages`; what the server does by itself is the tenant "".

        `admit` is asked, in a thread, once it is known what is in it; what it raises is raised
        here. Raises `Unprocessable` with the reason where the archive is one that is not taken, and
        `StoreUnavailable` where there is no room. Nothing of it is left then.
        """

    async def program(self, digest: str, names: Sequence[str], path: str) -> str | None:
        """The first program of one of these names in the directories of `path`, as a PATH lists
        them, of a root file system that is there; None where it has none. Raises
        `StoreUnavailable`.
        """

    async def measure(self, digest: str) -> int | None:
        """What the image counts, as `Image.counted_bytes` says; None where there is none."""

    async def missing(self, digests: Collection[str]) -> Sequence[str]:
        """Those of the digests that have no files here, as the disk says now."""

    async def files(
        self, digest: str, after: str, count: int, tenant_id: str = ""
    ) -> Sequence[ImageFile]:
        """Up to `count` files and links of an image that is there, in the order of their paths,
        those behind the path `after`. Raises `StoreUnavailable`.
        """

    async def read(self, digest: str, path: str, most: int, tenant_id: str = "") -> bytes | None:
        """A file of an image that is there, by its path; None where there is no such file, or only
        a link. Raises `StoreUnavailable`, and `Unprocessable` if it has more than `most` bytes.
        """

    async def packages(self, digest: str, tenant_id: str = "") -> tuple[Sequence[Package], bool]:
        """The packages of an image that is there, and whether these are all. Raises
        `StoreUnavailable`.
        """

    def all(self) -> Collection[str]:
        """The digests of those that are there, as they come and go."""

    def archive(self, digest: str) -> AsyncGenerator[bytes, None]:
        """An image that is there as a tar archive, in pieces of up to 64 KiB, of which `take` makes
        one with the same digest. It is not removed meanwhile. Raises `StoreUnavailable`.
        """

    def hold(self, digest: str) -> bool:
        """Whether it is there; if so, it is as good as new for `collect`. Never waits."""

    async def collect(self, in_use: frozenset[str], grace_s: float) -> int:
        """Removes images that were neither in use nor held for `grace_s`; returns how many."""
