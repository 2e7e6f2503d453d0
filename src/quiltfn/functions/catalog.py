"""Every function in memory, so that an invocation never asks the database."""

import contextlib
import hashlib
from bisect import bisect_left, bisect_right, insort
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping

import msgspec

from quiltfn.base.signal import Signal
from quiltfn.model.cursors import BEFORE_EVERY_ID
from quiltfn.model.errors import (
    FIND_BY_NAME,
    LIST_FUNCTIONS,
    CapacityFull,
    NotFound,
    RateLimited,
)
from quiltfn.model.function import Function
from quiltfn.model.version import Version, VersionSpec
from quiltfn.ports import FunctionCounters, StoredFunction

MIB = 1024 * 1024


class Entry(msgspec.Struct, frozen=True, eq=False):
    """A function at one moment and its version at that moment; a change creates a new entry.

    All entries of the function share `counters`, since invocations continue across changes.
    """

    function: Function
    version: Version
    counters: FunctionCounters

    def fingerprint(self) -> str:
        """A fingerprint of the function and its version. Every change changes it; invocations do
        not.

        A newer server, whose functions have more fields, computes the same fingerprint.
        """
        it = self.function
        # With the time: after a restore, changes repeat earlier revisions, but not their times.
        known = msgspec.json.encode([it.id, it.revision, it.updated_at, self.version.id])
        return hashlib.sha256(known).hexdigest()[:32]


class Catalog:
    """Functions by id and by name. A tenant sees only its own."""

    def __init__(self, size_max: int = 48 * MIB) -> None:
        """`size_max`: maximum bytes of all handlers and environments together; one tenant may use
        at most half of that.
        """
        self._size_max, self._size = size_max, 0
        self._size_of: defaultdict[str, int] = defaultdict(int)
        self._by_id: dict[str, Entry] = {}
        self._by_name: dict[tuple[str, str], Entry] = {}
        self._ids: defaultdict[str, list[str]] = defaultdict(list)  # by tenant, in the order of ids
        self._removals: list[set[str]] = []
        # Emitted for every change: the function before and after it.
        self.on_change: Signal[Function | None, Function | None] = Signal()

    def tenants(self) -> list[str]:
        """The tenants that have a function."""
        return [tenant_id for tenant_id, ids in self._ids.items() if ids]

    @contextlib.contextmanager
    def reserve(
        self, tenant_id: str, spec: VersionSpec, instead_of: VersionSpec | None = None
    ) -> Iterator[None]:
        """Reserves memory for a function with that spec until it is in the catalog.

        Raises `RateLimited` if the tenant's functions would exceed half of the maximum, and
        `CapacityFull` if all functions would exceed it.
        """
        more = spec.size - (instead_of.size if instead_of is not None else 0)
        if instead_of is None or more > 0:
            self._check_size(tenant_id, more)
        more = max(0, more)  # a shorter spec frees memory once it is in the catalog
        self._grow(tenant_id, more)
        try:
            yield
        finally:
            self._grow(tenant_id, -more)

    def _check_size(self, tenant_id: str, more: int) -> None:
        has, most = self._size_of.get(tenant_id, 0), self._size_max // 2
        if has + more > most:
            raise RateLimited(
                f"handlers and environments of the tenant's functions take {has} bytes of the "
                f"{most} that this server keeps in memory of one tenant",
                hint="delete a function, or keep long handlers in a runtime's files",
                retry_after=60,
            )
        if self._size + more > self._size_max:
            raise CapacityFull(
                f"handlers and environments of all functions take {self._size} bytes of the "
                f"{self._size_max} that this server keeps in memory",
                hint="an operator can raise functions_max_bytes",
                retry_after=60,
            )

    def _grow(self, tenant_id: str, more: int) -> None:
        self._size += more
        self._size_of[tenant_id] += more
        if not self._size_of[tenant_id]:
            del self._size_of[tenant_id]

    def add(self, entry: Entry) -> None:
        """Add a new function."""
        known = self._by_id.get(entry.function.id)  # `follow_change` may have added it already
        if known is None:
            insort(self._ids[entry.function.tenant_id], entry.function.id)
        elif known.function.revision > entry.function.revision:
            return  # and may already have applied another server's change of it
        self._put(known, entry)

    def replace(self, function: Function, version: Version | None = None) -> Entry:
        """Replace the entry of a changed function; without `version` its version stays.

        Its old name, if it had another, becomes free. Raises `NotFound`.
        """
        before = self.get(function.id)
        if before.function.revision > function.revision:
            return before  # a later change of another server was applied first
        entry = Entry(function, version or before.version, before.counters)
        self._put(before, entry)
        return entry

    def remove(self, entry: Entry) -> None:
        """Remove the function in any state, and free its name; no effect if the function is
        gone.
        """
        for seen in self._removals:
            seen.add(entry.function.id)
        before = self._by_id.get(entry.function.id)
        if before is None:
            return
        ids = self._ids[before.function.tenant_id]
        del ids[bisect_left(ids, before.function.id)]
        if not ids:
            del self._ids[before.function.tenant_id]
        self._put(before, None)

    def _put(self, before: Entry | None, after: Entry | None) -> None:
        """Replace a function's entry; nothing else changes entries."""
        if before is not None:
            function = before.function
            self._grow(function.tenant_id, -before.version.spec.size)
            if after is None:
                del self._by_id[function.id]
            # The store has already freed the name, so another function may have it by now.
            key = (function.tenant_id, function.name)
            if self._by_name.get(key) is before:
                del self._by_name[key]
        if after is not None:
            function = after.function
            self._grow(function.tenant_id, after.version.spec.size)
            self._by_id[function.id] = after
            self._by_name[function.tenant_id, function.name] = after
        for hear in self.on_change.hearers:
            hear(before.function if before else None, after.function if after else None)

    def known(self, function_id: str) -> Entry | None:
        """The function's present entry, of any tenant, if it exists."""
        return self._by_id.get(function_id)

    def get(self, function_id: str) -> Entry:
        """Like `known`, but raises `NotFound`."""
        entry = self._by_id.get(function_id)
        if entry is None:
            raise NotFound("there is no such function")
        return entry

    @contextlib.contextmanager
    def removals(self) -> Iterator[set[str]]:
        """The ids of the functions that are removed during the block."""
        seen: set[str] = set()
        self._removals.append(seen)
        try:
            yield seen
        finally:
            # By identity: two sets with the same elements are equal.
            self._removals = [one for one in self._removals if one is not seen]

    def follow_change(self, function_id: str, stored: StoredFunction | None) -> bool:
        """Apply the stored function, if it is newer; None: the function was deleted. Returns
        whether anything changed.
        """
        entry = self._by_id.get(function_id)
        if stored is None:
            if entry is None:
                return False
            self.remove(entry)
        elif entry is None:
            self.add(Entry(stored.function, stored.version, stored.counters))
        elif entry.function.revision < stored.function.revision:
            self.replace(stored.function, stored.version)
        else:
            return False
        return True

    def follow_counters(
        self,
        stored: Mapping[str, FunctionCounters],
        unstored: Mapping[str, FunctionCounters] | None,
    ) -> None:
        """Apply the stored counters, and add the counts that this server has not stored yet. If
        these are unknown (None), counters only grow; a later update corrects an excessive
        `error_count`.
        """
        for function_id, found in stored.items():
            entry = self._by_id.get(function_id)
            if entry is None:
                continue
            known = entry.counters
            if unstored is not None:
                own = unstored.get(function_id) or FunctionCounters()
                known.invocation_count = found.invocation_count + own.invocation_count
                known.error_count = found.error_count + own.error_count
            else:
                known.invocation_count = max(known.invocation_count, found.invocation_count)
                known.error_count = max(known.error_count, found.error_count)
            if found.last_invoked_at is not None:
                known.last_invoked_at = max(known.last_invoked_at or 0, found.last_invoked_at)

    def by_id(self, tenant_id: str, function_id: str) -> Entry:
        """Raises `NotFound`, with the same message for another tenant's id."""
        entry = self._by_id.get(function_id)
        if entry is None or entry.function.tenant_id != tenant_id:
            # often, the caller gave a name instead of an id
            hint = f"{FIND_BY_NAME.text} finds a function by its name"
            raise NotFound("there is no function with this id", hint=hint, see=FIND_BY_NAME)
        return entry

    def find(self, tenant_id: str, name: str) -> Entry | None:
        """The function of the tenant with this name, if there is one."""
        return self._by_name.get((tenant_id, name))

    def by_name(self, tenant_id: str, name: str) -> Entry:
        """Raises `NotFound`."""
        entry = self._by_name.get((tenant_id, name))
        if entry is None:
            hint = f"{LIST_FUNCTIONS.text} lists the functions"
            raise NotFound("there is no function with this name", hint=hint, see=LIST_FUNCTIONS)
        return entry

    def count(self, tenant_id: str) -> int:
        """The number of the tenant's functions."""
        return len(self._ids.get(tenant_id, ()))

    def of_tenant(
        self, tenant_id: str, after: str = BEFORE_EVERY_ID, *, newest_first: bool = False
    ) -> Iterator[Entry]:
        """The tenant's functions with ids above `after`, oldest first (ids are in creation order),
        each in its state when it is reached. Functions that were deleted meanwhile are left out.
        """
        ids = self._ids.get(tenant_id, [])
        ids = ids[bisect_right(ids, after) :]
        ordered = reversed(ids) if newest_first else iter(ids)
        return (entry for key in ordered if (entry := self._by_id.get(key)) is not None)

    def owned(self, tenant_id: str, function_ids: Iterable[str]) -> list[str]:
        """The functions with these ids that exist and belong to the tenant."""
        found = ((one, self._by_id.get(one)) for one in function_ids)
        return [one for one, entry in found if entry and entry.function.tenant_id == tenant_id]

    def functions(self) -> Iterator[Function]:
        """The functions of all tenants."""
        return (entry.function for entry in self.all())

    def all(self) -> Iterator[Entry]:
        return iter(list(self._by_id.values()))
