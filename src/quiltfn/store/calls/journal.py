"""The journal writes a record of every invocation before its start and again before its response.

Each record costs one `write` to the spool. Group commits move records into the database later.

There are two spool segments. One takes new records, the other is being committed or is empty:
    write → pending, segment A  ──swap──▶  committing, one transaction, synced  ──▶  A emptied
A record leaves its segment only after its transaction was synced, and committing it twice has no
effect. So a kill between any two steps neither loses nor duplicates a record.

An idle journal does nothing: the first record after a commit sets the timer of the next one.
"""

import asyncio
from collections import defaultdict
from collections.abc import Iterator, Sequence
from pathlib import Path
from time import monotonic

import msgspec
from sqlalchemy import Connection

from quiltfn.base.signal import Signal
from quiltfn.model.cursors import AFTER_EVERY_ID, from_cursor, to_cursor
from quiltfn.model.errors import StoreUnavailable
from quiltfn.model.invocation import FINAL, Invocation
from quiltfn.ports import (
    Clock,
    FunctionCounters,
    InvocationQuery,
    Outline,
    Page,
    Uncounted,
)
from quiltfn.store.calls import late_ends as late
from quiltfn.store.calls import record_list, records, work_recovery
from quiltfn.store.calls.spool import Spool, latest
from quiltfn.store.calls.stats import Sums, add_all
from quiltfn.store.database.database import Database, Work
from quiltfn.store.database.directory import SPOOLS, DataDirectory, StoreBroken
from quiltfn.store.database.disk_reserve import REFUSED, DiskFull
from quiltfn.store.database.nodes import Boot

# Including the duration of the commit, a record is on disk within 50 ms.
COMMIT_AFTER_S = 0.04
RETRY_AFTER_S = 1.0
# For how long `refuses` is true after the start of an invocation could not be written to the disk.
TRIED_AGAIN_S = 1.0
# The segment grows while commits fail. Beyond this, new invocations are refused; ends are still
# written.
SEGMENT_MAX_BYTES = 64 * 1024 * 1024
# Beyond this, responses wait for the commit.
WAITING_MAX_BYTES = 16 * 1024 * 1024
# Beyond this, the next commit starts at once: large output could fill the segment.
COMMIT_AT_BYTES = 4 * 1024 * 1024


class SpoolJournal:
    """The records of invocations. A written record survives `kill -9` of the server. Call `start`
    first and `aclose` last.

    `is_strict`: records also survive a power cut, since responses wait for `synced`.
    """

    def __init__(
        self,
        database: Database,
        data_dir: Path,
        clock: Clock,
        *,
        commit_after_s: float = COMMIT_AFTER_S,
        retry_after_s: float = RETRY_AFTER_S,
        is_strict: bool = False,
    ) -> None:
        """`data_dir`: contains the spool. Each server has its own, even if they share a
        database.
        """
        self.is_strict = is_strict
        self._database = database
        self._is_beside = data_dir == database.directory.path
        self._directory = database.directory if self._is_beside else DataDirectory(data_dir)
        self._paths = [data_dir / name for name in SPOOLS]
        self._clock = clock
        self._commit_after_s, self._retry_after_s = commit_after_s, retry_after_s
        self._pending: dict[str, Invocation] = {}
        self._committing: dict[str, Invocation] = {}
        self._spool: Spool
        self._other: Spool
        self._timer: asyncio.TimerHandle | None = None
        self._commit: asyncio.Task[None] | None = None
        # The number of writes so far, how many of them are committed, and `_written` at the time of
        # the last swap.
        self._written = self._kept = self._taken = 0
        self._failure: StoreUnavailable | None = None
        # when the start of an invocation last could not be written to the disk
        self._refused_at = float("-inf")
        # Emitted with the statistics that a commit added.
        self.on_counted: Signal[Sums] = Signal()
        # writes of this server's start, deferred while the disk is full
        self._left_to_do: Work[Sums] | None = None
        self._is_recovered = asyncio.Event()  # set once `_left_to_do` is stored
        self._boot: Boot

    async def start(self) -> None:
        """Stores the last server's records from the spool and ends its invocations as interrupted.

        Raises `StoreBroken` if a segment is damaged or another server uses it, and
        `StoreUnavailable`.
        """
        self._boot = self._database.boot
        if not self._is_beside:
            self._directory.open_spool()
        elif not self._directory.holds_lock:
            raise StoreBroken("Another server writes the journal in this data directory.")
        self._loop = asyncio.get_running_loop()
        try:
            holds = self._directory.holds
            self._spool, self._other = (Spool(path, holds) for path in self._paths)
        except OSError as error:
            raise StoreBroken(f"The journal cannot be written: {error}.") from error
        try:
            is_whole = self._look_for_lost()
            left = latest(record for one in (self._spool, self._other) for record in one.read())
            boot, now = self._boot, int(self._clock.unix())
            start = work_recovery.StartTime(now, int(self._clock.trusted() * 1000))

            def work(connection: Connection) -> Sums:
                kept = list(left.values())
                if not boot.is_alone:  # other servers may have ended some invocations
                    kept = late.reopen(connection, left)
                sums = records.upsert(connection, kept, boot.epoch - 1)
                work_recovery.recover(connection, boot, start, is_spool_whole=is_whole)
                records.interrupt(connection, boot, now)
                return sums

            try:
                await self._database.write(work)
            except DiskFull as error:
                self._put_off(work, left, now, error)
            else:
                self._spool.clear()
                self._other.clear()
                self._is_recovered.set()
        except BaseException:
            self._close()
            raise

    def _put_off(
        self, work: Work[Sums], left: dict[str, Invocation], now: int, error: DiskFull
    ) -> None:
        """Lets the server start on a full disk: keeps the last server's records in the segments,
        shows them from memory, and refuses new invocations until they are stored.
        """
        self._left_to_do = work
        self._committing = {one: records.interrupted(record, now) for one, record in left.items()}
        self._written = self._taken = 1
        self._failure = error
        self._timer = self._loop.call_later(self._retry_after_s, self._commit_now)

    async def recovered(self) -> bool:
        """Waits until the last server's records are stored; returns whether a full disk had
        deferred them.
        """
        was_put_off = not self._is_recovered.is_set()
        await self._is_recovered.wait()
        return was_put_off

    async def aclose(self) -> None:
        """Commits the remaining records. If that raises `StoreUnavailable`, they stay in the spool
        and the next start stores them.
        """
        try:
            await self.synced()
        finally:
            if self._commit is not None:  # a commit may still be emptying a segment
                await asyncio.wait([self._commit])
            if self._timer is not None:
                self._timer.cancel()
            self._close()

    @property
    def problem(self) -> str | None:
        """Why the last write to the database failed, of records or anything else; None if it
        succeeded.
        """
        return str(self._failure) if self._failure else self._database.problem

    def stalled_s(self) -> float:
        """For how many seconds the event loop has been blocked in a write to the disk; 0 if it
        isn't blocked. Called from another thread.
        """
        began = [one.writing_since for one in (self._spool, self._other) if one.writing_since]
        return monotonic() - min(began) if began else 0.0

    def opened(self, record: Invocation) -> None:
        """Writes the start of an invocation. Raises `StoreUnavailable` if the invocation must be
        refused.
        """
        if self._lacks_room:
            raise DiskFull(REFUSED)
        if self._database.directory.problem is not None:
            self._check_directory()
        if self.is_behind:
            raise StoreUnavailable(f"too much waits to be stored ({self.problem or 'it is slow'})")
        try:
            self._spool.append(record)
        except OSError as error:
            self._refused_at = monotonic()
            raise unwritable(error) from error
        self._remember(record)

    @property
    def refuses(self) -> bool:
        """Whether `opened` would probably refuse an invocation now."""
        is_unwritable = monotonic() - self._refused_at < TRIED_AGAIN_S
        return is_unwritable or self._lacks_room or self.is_behind

    @property
    def _lacks_room(self) -> bool:
        return self._database.reserve.is_spent or self._left_to_do is not None

    @property
    def is_behind(self) -> bool:
        """Whether the unstored records are so large that optional writes should be left out."""
        return self._spool.size > SEGMENT_MAX_BYTES

    def closed(self, record: Invocation) -> None:
        """Writes the end of the invocation. Raises `StoreUnavailable` if that failed."""
        # Never refused: the invocation has run, and the database may still accept its end.
        self._remember(record)
        if self._database.directory.problem is not None:
            self._check_directory()
        try:
            self._append_end(record)
        except OSError as error:
            raise unwritable(error) from error
        if self._spool.size > COMMIT_AT_BYTES:  # possibly due to this end
            self._commit_in_time()

    def _append_end(self, record: Invocation) -> None:
        """Writes an end; on a full disk, releases the reserve for it."""
        try:
            self._spool.append(record)
        except OSError:
            if not self._database.reserve.release():
                raise
            self._spool.append(record)

    def amended(self, record: Invocation) -> None:
        """Replaces the record that `closed` has just written, for example to add how long the write
        took.

        This needs no write and never fails. `kill -9` before the next group commit may undo it.
        """
        if record.invocation_id in self._pending:
            self._pending[record.invocation_id] = record

    @property
    def must_drain(self) -> bool:
        """Whether `drain` would wait."""
        return self._spool.size > WAITING_MAX_BYTES and self._failure is None

    async def drain(self) -> None:
        """Waits while too much is uncommitted; returns at once if commits fail."""
        while self.must_drain:
            await asyncio.shield(self._commit_now())

    async def synced(self) -> None:
        """Waits until everything written so far is committed: on disk, and visible to queries."""
        target = self._written
        while self._kept < target:
            await asyncio.shield(self._commit_now())
            if self._failure is not None:
                raise StoreUnavailable(str(self._failure))

    async def get(self, function_id: str, invocation_id: str) -> Invocation | None:
        """One record, committed or not. A strict journal commits an end before showing it, and
        raises `StoreUnavailable` if that fails.
        """
        fresh = await self._told_from_memory(invocation_id)
        if fresh is not None:
            return fresh if fresh.function_id == function_id else None
        return await self._database.read(
            lambda connection: records.find(connection, function_id, invocation_id)
        )

    def is_unstored(self, invocation_id: str) -> bool:
        """Whether this server has an uncommitted record of the invocation."""
        return self._unstored(invocation_id) is not None

    def uncounted(self) -> Uncounted | None:
        """The counters that the database lacks; None while a commit is under way."""
        if self._committing:
            return None
        counters: defaultdict[str, FunctionCounters] = defaultdict(FunctionCounters)
        for record in self._pending.values():
            if record.is_final:
                counters[record.function_id].count(record)
        return Uncounted(commits=self._kept, counters=counters)

    def _unstored(self, invocation_id: str) -> Invocation | None:
        """The uncommitted record, as it will be stored; None if there is none."""
        fresh = self._pending.get(invocation_id) or self._committing.get(invocation_id)
        return None if fresh is None else fresh.after_attempt()

    async def _told_from_memory(self, invocation_id: str) -> Invocation | None:
        """The uncommitted record, as it will be stored. None: read the database instead. Stores the
        record first if `_counts_once_stored`.
        """
        fresh = self._unstored(invocation_id)
        if fresh is not None and self._counts_once_stored(fresh) and self._left_to_do is None:
            await self.synced()
            return None
        return fresh

    def _counts_once_stored(self, record: Invocation) -> bool:
        """Whether the record may be shown only once it is stored: an end of a strict journal, or an
        end of an asynchronous invocation, which another node may replace if it takes this node
        over.
        """
        is_replaceable = record.outcome is not None and not self._boot.is_alone
        return record.status in FINAL and (self.is_strict or is_replaceable)

    def _told_in_lists(self) -> Iterator[Invocation]:
        """The uncommitted records as they will be stored, except those that may be shown only once
        stored.
        """
        for record in (*self._committing.values(), *self._pending.values()):
            fresh = record.after_attempt()
            if not self._counts_once_stored(fresh):
                yield fresh

    async def outline(self, function_id: str, invocation_id: str) -> Outline | None:
        """Like `get`, but with the length of the output in place of its content."""
        fresh = await self._told_from_memory(invocation_id)
        if fresh is None:
            return await self._database.read(
                lambda connection: records.outline(connection, function_id, invocation_id)
            )
        if fresh.function_id != function_id:
            return None
        sizes = {"stdout": len(fresh.stdout), "stderr": len(fresh.stderr)}
        return Outline(record=without_output(fresh), sizes=sizes)

    async def read_output(
        self, function_id: str, invocation_id: str, stream: str, start: int, size: int
    ) -> bytes:
        """A part of the output of one invocation, without loading the rest. At the end of the
        output, the part is shorter than requested or empty.
        """
        fresh = self._unstored(invocation_id)
        if fresh is None:
            return await self._database.read(
                lambda connection: records.read_output(
                    connection, (invocation_id, function_id), stream, start, size
                )
            )
        if fresh.function_id != function_id:
            return b""
        kept = fresh.stdout if stream == "stdout" else fresh.stderr
        return kept[start : start + size]

    async def query(self, query: InvocationQuery) -> Page[Invocation]:
        """Records, newest first. If few of very many records match, a page may have fewer than
        `limit`, or none, and still have a cursor. Raises `Unprocessable` for an invalid cursor.
        """
        before = from_cursor(query.cursor, AFTER_EVERY_ID)
        # Read memory first, then the database: so a record that is committed in between is in both,
        # and isn't missed. A record in memory replaces its row, even if only the row matches.
        fresh = {
            record.invocation_id: record
            for record in self._told_in_lists()
            if query.function_id in (None, record.function_id)
            and query.tenant_id in (None, record.tenant_id)
        }
        most = query.limit + 1
        stored, last = await self._database.read(
            lambda connection: record_list.page(connection, query, before, most, fresh.keys())
        )
        found = list(stored)
        for unstored in fresh.values():
            if unstored.invocation_id >= last and record_list.matches(unstored, query, before):
                found.append(unstored if query.with_output else without_output(unstored))
        found.sort(key=lambda record: record.invocation_id, reverse=True)
        items = found[: query.limit]
        if len(found) > len(items):
            last = items[-1].invocation_id
        return Page(items, to_cursor(last) if last else None)

    async def children(self, tenant_id: str, invocation_id: str, most: int) -> Sequence[Invocation]:
        """The newest `most` invocations that an invocation of the tenant has caused, in order of
        age (oldest first), without their output.
        """
        fresh = {
            one.invocation_id: without_output(one)
            for one in self._told_in_lists()
            if one.parent_invocation_id == invocation_id and one.tenant_id == tenant_id
        }
        stored = await self._database.read(
            lambda connection: record_list.children(connection, tenant_id, invocation_id, most)
        )
        found = {one.invocation_id: one for one in stored} | fresh
        return sorted(found.values(), key=lambda record: record.invocation_id)[-most:]

    async def function_of(self, tenant_id: str, invocation_id: str) -> str | None:
        """The function id of an invocation of the tenant; None if the function or the record is
        gone.
        """
        fresh = self._unstored(invocation_id)
        if fresh is not None:
            return fresh.function_id if fresh.tenant_id == tenant_id else None
        return await self._database.read(
            lambda connection: record_list.function_of(connection, tenant_id, invocation_id)
        )

    def _look_for_lost(self) -> bool:
        """Whether the segments have all that the last server wrote; adds a notice if they don't.

        Also returns False for a directory without an earlier server, since the node may have
        written to another one.
        """
        directory = self._directory
        is_whole = directory.note.word != ""
        for spool, held in zip((self._spool, self._other), directory.note.spools, strict=True):
            if held == "+" and spool.size == 0:
                is_whole = False
                directory.add_notice(
                    f"{spool.path.name} held records when the last server ended, and is empty now: "
                    "some calls that were answered then have none"
                )
        return is_whole

    def _check_directory(self) -> None:
        """Raises `StoreUnavailable` if the files were deleted: new records would be lost."""
        directory = self._database.directory
        if directory.problem is not None:
            directory.look()
        if directory.problem is not None:
            raise StoreUnavailable(directory.problem)

    def _remember(self, record: Invocation) -> None:
        self._pending[record.invocation_id] = record
        self._written += 1
        # otherwise the next commit is scheduled already
        if self._timer is None or self._spool.size > COMMIT_AT_BYTES:
            self._commit_in_time()

    def _commit_in_time(self) -> None:
        """Schedules the next commit, or starts it if much is uncommitted."""
        if self._commit is not None:  # the end of a commit schedules the next one
            return
        if self._spool.size > COMMIT_AT_BYTES and self._failure is None:
            self._commit_now()
        elif self._timer is None:
            self._timer = self._loop.call_later(self._commit_after_s, self._commit_now)

    def _commit_now(self) -> asyncio.Task[None]:
        """The running commit, or a new one, which starts now."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if self._commit is None:
            self._commit = self._loop.create_task(self._group_commit())
        return self._commit

    async def _group_commit(self) -> None:
        if not self._committing:  # otherwise retries the same batch after a failure
            self._committing, self._pending = self._pending, {}
            self._spool, self._other = self._other, self._spool
            self._taken = self._written
        batch = list(self._committing.values())
        try:
            await self._store(batch)
        except (StoreUnavailable, OSError) as error:
            self._failure = StoreUnavailable(str(error))
        except Exception as error:
            # A bug: logged. The records stay, and storing them is retried.
            self._failure = StoreUnavailable("the records of calls cannot be stored")
            self._loop.call_exception_handler(
                {"message": "group commit failed", "exception": error}
            )
        else:
            self._committing, self._kept, self._failure = {}, self._taken, None
        self._commit = None
        if self._failure is not None:
            self._timer = self._loop.call_later(self._retry_after_s, self._commit_now)
        elif self._pending:
            self._commit_in_time()

    async def _store(self, batch: list[Invocation]) -> None:
        """Moves the batch from its segment into the database."""
        epoch = self._boot.epoch
        if self._left_to_do is not None:
            left_to_do = self._left_to_do

            def work(connection: Connection) -> Sums:
                sums = left_to_do(connection)
                add_all(sums, records.upsert(connection, batch, epoch))
                return sums

            self._tell(await self._database.write(work, self._other.clear, frees=True))
            self._left_to_do = None
            self._is_recovered.set()
            if not self._pending:  # otherwise the next commit empties the spool
                self._spool.clear()
            return
        try:
            sums = await self._database.write(
                lambda connection: records.upsert_new(connection, batch, epoch),
                self._other.clear,
                frees=True,  # the commit empties the segment
            )
        except records.NotAllNew:
            sums = await self._database.write(
                lambda connection: records.upsert(connection, batch, epoch),
                self._other.clear,
                frees=True,
            )
        self._tell(sums)

    def _tell(self, sums: Sums) -> None:
        for hear in self.on_counted.hearers:
            hear(sums)

    def _close(self) -> None:
        self._spool.close()
        self._other.close()
        if not self._is_beside:
            self._directory.leave()


def unwritable(error: OSError) -> StoreUnavailable:
    return StoreUnavailable(f"the record of the call cannot be written: {error.strerror or error}")


def without_output(record: Invocation) -> Invocation:
    return msgspec.structs.replace(record, stdout=b"", stderr=b"")
