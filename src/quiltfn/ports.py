"""The interfaces between the verbs and everything that does I/O, and what each side may rely on.

`tests/contract` has one suite for each interface and runs it on every implementation. `Sandboxes`
has two: the launcher's, and a fake for tests without root. The store has one, SQLite, which every
test uses as it is; a second one is an entry in the suite's list.
"""

from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import AbstractAsyncContextManager
from enum import StrEnum
from typing import Generic, Protocol, TypeVar

import msgspec

from quiltfn.model.access import Key, Scope
from quiltfn.model.audit import AuditEntry
from quiltfn.model.function import Function
from quiltfn.model.idempotency import IdempotentRequest, StoredResponse
from quiltfn.model.image import Archive, Image, TenantImage
from quiltfn.model.invocation import CallResult, ExitKind, Invocation, Status
from quiltfn.model.memory import Memory
from quiltfn.model.operation import Operation
from quiltfn.model.pool import PoolCounts, PoolLimits
from quiltfn.model.retention import RetentionPolicy
from quiltfn.model.runtime import Runtime
from quiltfn.model.timeline import StartTiming
from quiltfn.model.version import Version, VersionSpec

T = TypeVar("T")


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


class LongOutput(Protocol):
    """Room for the output of one call, should that be long."""

    def take(self, size: int, ready: Callable[[], None]) -> bool:
        """Whether there is room now for `size` bytes of it in all; if not, `ready` is called once
        there is. To be asked again whenever it is longer by a MiB.
        """
        ...


class OutputSink(Protocol):
    """Takes the output of one call while the call runs: what its record keeps, no more."""

    def write(self, stream: str, data: bytes, ready: Callable[[], None]) -> bool:
        """Takes `data` of "stdout" or "stderr". Returns whether more may come now.

        It never waits and never raises. After False nothing more is read from the sandbox until
        `ready` is called, once or more often: its handler soon cannot write any further, while its
        deadline stays. What was read already still comes, 256 KiB at most. When `Sandbox.call`
        returns, everything has come.
        """
        ...


class Call(msgspec.Struct, frozen=True, kw_only=True):
    """What one call brings to a sandbox.

    `environment`: variables for this call. They are added to the version's own, or, with
    `replaces_environment`, are all there is. `timeout_s`: seconds from the hand-over. `long_output`
    None: there is room for all of it. `output_sink` None: nobody follows the output.
    """

    payload: bytes | None
    environment: dict[str, str]
    replaces_environment: bool
    timeout_s: float
    long_output: LongOutput | None = None
    output_sink: OutputSink | None = None


class SandboxRefused(Exception):
    """The sandbox stands, but what it was asked to be is not possible in it (a sentence)."""


class SandboxFailed(Exception):
    """No sandbox could be made; nothing of the attempt is left (a sentence)."""


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

    def end_call(self, kind: ExitKind, reason: str) -> bool:
        """Makes `call` return that result at once, and returns whether a call was running. Its
        handler still runs: destroy the sandbox next. A call that has its result keeps it.
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

    async def count_blocked(self) -> int:
        """How many attempts to reach something its network has refused so far, or until its end."""

    async def destroy(self) -> None:
        """Gives everything back to the machine. Harmless in any state and when repeated."""


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


class NotPrepared(Exception):
    """The instances of a version could not be made ready; the text says why."""


class Preparation(Protocol):
    """A version whose instances are ready, until the end of the block (`Pools.prepared`)."""

    def promote(self, version: Version | None = None) -> None:
        """From now on every new and waiting call gets the version; running calls end on theirs.

        `version`: the same spec under the number that is current by now. Without effect where the
        pool was closed meanwhile.
        """


class Pools(Protocol):
    """The instances and the wait queue of every function on this node, and their memory.
    `tenant_instances`: how many instances each tenant may have.
    """

    memory: Memory
    tenant_instances: float

    def lease(self, function_id: str) -> PendingLease:
        """Holds an instance of the function's current version.

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

    def close(self, function_id: str, why: str) -> None:
        """Serves no more calls. Waiting calls are refused for `why`; running ones may finish."""

    def open(self, function_id: str, version: Version, limits: PoolLimits) -> None:
        """Serves `version` without waiting for instances: for functions loaded at start."""

    def set_scaling(self, function_id: str, limits: PoolLimits) -> None:
        """New scaling targets, at once."""

    async def end_running(self, function_id: str, kind: ExitKind, reason: str) -> None:
        """Ends running calls that way and waits until every instance is gone: after `close`."""

    def forget(self, function_id: str) -> None:
        """Removes the empty pool of a deleted function."""

    def counts(self, function_id: str) -> PoolCounts:
        """How many instances are in each of the five states; zeros without a pool."""

    def occupied(self) -> Sequence[str]:
        """The ids of the functions that have an instance in any state."""

    async def blocked(self, function_id: str) -> int:
        """Attempts that the network of its instances has refused since this server started."""

    def waiting(self) -> int:
        """How many calls wait for an instance, over all functions."""


class Page(msgspec.Struct, Generic[T], frozen=True):
    """A slice of a list and, where there is more, the cursor that continues it."""

    items: Sequence[T]
    next_cursor: str | None = None


PAGE_MAX_BYTES = 8 * 1024 * 1024


class InvocationQuery(msgspec.Struct, frozen=True, kw_only=True):
    """Which records of a function, newest first. `cursor`: as a page gave it. `max_bytes`: of
    output, after which the page ends, behind a whole record and one at least; `with_output` False
    leaves it out.
    """

    function_id: str
    limit: int
    cursor: str | None = None
    status: Status | None = None
    cold_start: bool | None = None
    min_duration_ms: int | None = None
    max_bytes: int = PAGE_MAX_BYTES
    with_output: bool = True


class FunctionCounters(msgspec.Struct, kw_only=True):
    """What a function's calls add up to. `last_invoked_at` in Unix seconds."""

    invocation_count: int = 0
    error_count: int = 0
    last_invoked_at: int | None = None


class StoredFunction(msgspec.Struct, frozen=True, kw_only=True):
    """A function as the store keeps it, with the version it points to."""

    function: Function
    version: Version
    counters: FunctionCounters


class ChangeKind(StrEnum):
    """What a change was made to."""

    FUNCTION = "function"
    RUNTIME = "runtime"
    KEY = "key"


class Change(msgspec.Struct, frozen=True, kw_only=True):
    """Something was made, changed or removed. `object_id`: an id, or the name of a runtime."""

    number: int
    kind: ChangeKind
    tenant_id: str
    object_id: str


class ChangePage(msgspec.Struct, frozen=True, kw_only=True):
    """Changes, oldest first. `is_complete` False: some before them are no longer kept, so whoever
    follows has to load everything again."""

    items: Sequence[Change]
    is_complete: bool


class Store(Protocol):
    """The truth about functions and versions. A write that returned is on disk.

    Every method raises `StoreUnavailable` when the database does not answer, and has then changed
    nothing.
    """

    async def load(self) -> Sequence[StoredFunction]:
        """Every function that was not deleted, once, at start."""

    async def find(self, function_id: str) -> StoredFunction | None:
        """One function; None if it was deleted or never made."""

    async def newest_change(self) -> int:
        """The number of the newest change. Ask for it before `load`, then follow from there."""

    async def changes(self, since: int, limit: int = 1000) -> ChangePage:
        """Changes of functions, runtimes and keys after the one with that number, by any server."""

    async def create(self, function: Function, version: Version) -> None:
        """Raises `Conflict` if the tenant has a function of that name; else both are stored."""

    async def save(self, function: Function, version: Version | None = None) -> Function:
        """Stores the function's new row, and with it a new version if given: both or none.

        Returns the function with its new revision. Raises `Outdated`, a `Conflict`, unless
        `function.revision` is the newest, and `NotFound` if it was deleted.
        """

    async def delete(self, function_id: str) -> None:
        """Removes the function, its versions and its records; its name is free from then on."""

    async def versions(
        self, function_id: str, after: str | None = None, limit: int = 1000
    ) -> Page[Version]:
        """Up to `limit` versions, newest first, behind the one with the id `after`; fewer where
        they are long, at least one.
        """

    async def version(self, function_id: str, number: int) -> Version | None:
        """One version, or None."""

    async def newest_number(self, function_id: str) -> int:
        """The number of the newest version; 0 without any."""

    def condition(self) -> tuple[bool, str]:
        """Whether what is kept is whole, as far as is known, and what is to be told of it."""

    async def ping(self) -> None:
        """Raises `StoreUnavailable` unless the database takes a write now."""


class Journal(Protocol):
    """The record of every call: what was acknowledged is not lost by `kill -9`.

    `is_strict`: nor by a power cut, for a call is acknowledged only once it is `synced`.
    """

    is_strict: bool

    @property
    def problem(self) -> str | None:
        """Why the database does not take records, or other writes, as of the last try; None: it
        does."""

    def stalled_s(self) -> float:
        """How long the event loop has been waiting for the disk to take a record; 0: it is not.

        To be asked from another thread.
        """

    def opened(self, record: Invocation) -> None:
        """Writes that the call is about to be handed over. Raises `StoreUnavailable`: refuse it."""

    def closed(self, record: Invocation) -> None:
        """Writes the end. Raises `StoreUnavailable` if it could not be kept."""

    def amended(self, record: Invocation) -> None:
        """In the step of `closed`: what writing it has taught of a record. It costs no write and
        never fails; `kill -9` before the next group commit may take it."""

    async def drain(self) -> None:
        """Returns once little waits in memory to be stored; at once where storing fails."""

    async def synced(self) -> None:
        """Returns once everything written so far is synced to disk and visible to the queries."""

    async def get(self, function_id: str, invocation_id: str) -> Invocation | None:
        """One record, this instant's writes included."""

    async def query(self, query: InvocationQuery) -> Page[Invocation]:
        """Records of one function, newest first. Raises `Unprocessable` for a broken cursor."""


class Retention(Protocol):
    """Takes records away, oldest first; never one without an end, nor one of the last minute."""

    async def prune_some(self, keep: RetentionPolicy) -> int:
        """One step, so short that others who write do not notice. Returns how many records went; 0
        once there are no more than are to be kept. Raises `StoreUnavailable`."""


class Keys(Protocol):
    """API keys, those revoked and expired included. Raises `StoreUnavailable` as the store does.

    Another process may write them too; `revision` is how that is noticed.
    """

    async def revision(self) -> int:
        """A number that is another one after every change, whoever made it; cheap to ask."""

    def change_token(self) -> object:
        """Another value after every change, whoever made it, as far as that can be told without
        waiting for the database. Costs a microsecond and never raises."""

    async def load(self) -> Sequence[Key]:
        """Every key that was ever made, oldest first."""

    async def add(self, key: Key, first_scope: Scope | None = None) -> Key:
        """Keeps a new key and returns it; the first key ever made gets `first_scope`, if given.

        One step: of any number of keys that are added at once, one is the first.
        """

    async def revoke(self, key: Key, now: int) -> Key:
        """Ends a key for good and returns it as it is then."""


class IdempotencyStore(Protocol):
    """The first answer to each request with an `Idempotency-Key`, kept for 24 hours."""

    async def reserve(
        self, request: IdempotentRequest, now: int, made_at: int | None = None
    ) -> StoredResponse | None:
        """Reserves the key for a first call (None: go ahead) or returns what is there, in one step.

        On disk before it returns, so that a crash cannot let the call run twice. `now`: trusted
        time; `made_at`: time stamp of the row, if another. A call that still runs keeps its key.
        """

    async def complete(
        self, request: IdempotentRequest, status: int, headers: dict[str, str], body: bytes
    ) -> None:
        """The first call's answer."""

    async def release(self, request: IdempotentRequest) -> None:
        """The call was refused before it was executed: the key is free again."""

    async def prune(self, now: int) -> int:
        """Removes what is older than 24 hours in small steps; returns how much."""


class Audit(Protocol):
    """The audit log: every call that changed something, or was refused to."""

    async def append(self, entry: AuditEntry) -> None:
        """Keeps an entry, on disk when it returns."""

    async def query(
        self, tenant_id: str | None, limit: int, cursor: str | None
    ) -> Page[AuditEntry]:
        """Entries of a tenant (None: of all), newest first. Raises `Unprocessable` for a cursor."""

    async def prune(self, before: int) -> int:
        """Removes entries older than that in small steps; returns how many."""


class Operations(Protocol):
    """Controlled changes, each once for its tenant and key."""

    async def add(self, operation: Operation) -> Operation | None:
        """Keeps it (None), or returns the one that its tenant made before with the same key."""

    async def finish(self, operation: Operation) -> None:
        """Keeps its end."""

    async def interrupted(self) -> Sequence[Operation]:
        """Those that an earlier start of this server left without an end."""

    async def prune(self, before: int) -> int:
        """Removes ended ones older than that in small steps; returns how many."""

    async def get(self, tenant_id: str, operation_id: str) -> Operation | None:
        """One operation of the tenant."""


class RuntimeStore(Protocol):
    """What the names of a tenant's runtimes stand for, and, as those of `SHARED`, what an
    operator's stand for to all tenants. Raises `StoreUnavailable`."""

    async def load(self) -> Sequence[tuple[str, Runtime]]:
        """Tenants, each with the newest revision of each name, once, at start."""

    async def save(self, tenant_id: str, runtime: Runtime) -> None:
        """From now on the name stands for this; versions keep what they were made with."""

    async def remove(self, tenant_id: str, name: str) -> None:
        """The name stands for nothing. Harmless where it did not."""

    async def images_in_use(self) -> frozenset[tuple[str, str]]:
        """Tenants with the digests that a runtime or any version of a function of theirs has."""


class TenantImageStore(Protocol):
    """Which tenant has which images. Raises `StoreUnavailable`."""

    async def held(self) -> Sequence[TenantImage]:
        """All of them, once, at start."""

    async def hold(self, one: TenantImage) -> None:
        """The tenant has the image from now on, on disk when this returns."""

    async def drop(self, tenant_id: str, digest: str) -> None:
        """The tenant no longer has the image. Harmless where it had not."""


class Images(Protocol):
    """The files that runtimes show at /app, by the digest of their content."""

    async def take(
        self, archive: Archive, chunks: AsyncIterator[bytes], admit: Callable[[Image], None]
    ) -> Image:
        """Unpacks an archive; the image is on disk when this returns.

        `admit` is asked, in a thread, once it is known what is in it; what it raises is raised
        here. Raises `Unprocessable` with the reason where the archive is one that is not taken, and
        `StoreUnavailable` where there is no room. Nothing of it is left then.
        """

    async def measure(self, digest: str) -> int | None:
        """What the image counts, as `Image.counted_bytes` says; None where there is none."""

    def hold(self, digest: str) -> bool:
        """Whether it is there; if so, it is as good as new for `collect`. Never waits."""

    async def collect(self, in_use: frozenset[str], grace_s: float) -> int:
        """Removes images that were neither in use nor held for `grace_s`; returns how many."""
