"""Every function in memory, so that the way of a call never asks the database."""

import asyncio
import contextlib
import hashlib
from bisect import bisect_left, bisect_right, insort
from collections import defaultdict
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field

import msgspec

from quiltfn.model.cursors import BEFORE_EVERY_ID
from quiltfn.model.errors import CapacityFull, NotFound, RateLimited
from quiltfn.model.function import Function
from quiltfn.model.version import Version, VersionSpec
from quiltfn.ports import ChangeKind, FunctionCounters, Store, Stored

MIB = 1024 * 1024


@dataclass(slots=True, eq=False)
class Entry:
    """A function as it is now, the version it points to, and who is changing it.

    `lock`: one lifecycle verb at a time. `deployment`: the deploy that is under way. `preparing`:
    what the verb that has the lock waits for, instances of a version. `stop_requests`: how many
    wait for the lock to pause or delete the function, which makes that wait pointless.
    """

    function: Function
    version: Version
    counters: FunctionCounters
    lock: asyncio.Lock = field(default_factory=asyncio.Lock)
    deployment: "asyncio.Task[None] | None" = None
    preparing: "asyncio.Task[None] | None" = None
    stop_requests: int = 0

    def fingerprint(self) -> str:
        """Another one after every change of the function or its version; calls do not change it."""
        known = msgspec.json.encode([self.function, self.version.id])
        return hashlib.sha256(known).hexdigest()[:32]


class Catalog:
    """Functions by id and by name. A tenant sees its own; everything else does not exist."""

    def __init__(self, size_max: int = 48 * MIB) -> None:
        """`size_max`: bytes that handlers and environments may take, all functions together; those
        of one tenant take half of them at most.
        """
        self._size_max, self._size = size_max, 0
        self._size_of: defaultdict[str, int] = defaultdict(int)
        self._by_id: dict[str, Entry] = {}
        self._by_name: dict[tuple[str, str], Entry] = {}
        self._ids: defaultdict[str, list[str]] = defaultdict(list)  # by tenant, in order

    @contextlib.contextmanager
    def room(
        self, tenant_id: str, spec: VersionSpec, instead_of: VersionSpec | None = None
    ) -> Iterator[None]:
        """Room for a function of that content, until it is in the catalog. Raises `RateLimited`
        where the tenant's functions would take more than its half, and `CapacityFull` where all
        would take more than there is.
        """
        more = spec.size - (instead_of.size if instead_of is not None else 0)
        if instead_of is None or more > 0:
            self._check_room(tenant_id, more)
        more = max(0, more)  # what gets shorter gives back once it is in the catalog
        self._grow(tenant_id, more)
        try:
            yield
        finally:
            self._grow(tenant_id, -more)

    def _check_room(self, tenant_id: str, more: int) -> None:
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
        known = self._by_id.get(entry.function.id)
        if known is not None:  # brought by `follow_change` before the verb that made it was done
            self.remove(known)
        self._grow(entry.function.tenant_id, entry.version.spec.size)
        self._by_id[entry.function.id] = entry
        insort(self._ids[entry.function.tenant_id], entry.function.id)
        self._by_name[entry.function.tenant_id, entry.function.name] = entry

    def replace(self, entry: Entry, function: Function, version: Version | None = None) -> None:
        """The function changed; its old name, if it had another, is free."""
        self._release_name(entry)
        entry.function = function
        if version is not None:
            more = version.spec.size - entry.version.spec.size
            self._grow(function.tenant_id, more)
            entry.version = version
        self._by_name[function.tenant_id, function.name] = entry

    def remove(self, entry: Entry) -> None:
        """Harmless if it is gone."""
        if self._by_id.get(entry.function.id) is not entry:
            return
        self._grow(entry.function.tenant_id, -entry.version.spec.size)
        del self._by_id[entry.function.id]
        ids = self._ids[entry.function.tenant_id]
        del ids[bisect_left(ids, entry.function.id)]
        if not ids:
            del self._ids[entry.function.tenant_id]
        self._release_name(entry)

    def _release_name(self, entry: Entry) -> None:
        # The store freed the name a moment ago: somebody else's function may have it by now.
        key = (entry.function.tenant_id, entry.function.name)
        if self._by_name.get(key) is entry:
            del self._by_name[key]

    def follow_change(self, function_id: str, stored: Stored | None) -> None:
        """Takes over what the store has of a function, if it is newer; None: it was deleted."""
        entry = self._by_id.get(function_id)
        if stored is None:
            if entry is not None:
                self.remove(entry)
        elif entry is None:
            self.add(Entry(stored.function, stored.version, stored.counters))
        elif entry.function.revision < stored.function.revision:
            self.replace(entry, stored.function, stored.version)

    def by_id(self, tenant_id: str, function_id: str) -> Entry:
        """Raises `NotFound`, for another tenant's id in just the same words."""
        entry = self._by_id.get(function_id)
        if entry is None or entry.function.tenant_id != tenant_id:
            raise NotFound("there is no function with this id")
        return entry

    def by_name(self, tenant_id: str, name: str) -> Entry:
        """Raises `NotFound`."""
        entry = self._by_name.get((tenant_id, name))
        if entry is None:
            raise NotFound("there is no function with this name")
        return entry

    def count(self, tenant_id: str) -> int:
        """How many functions the tenant has."""
        return len(self._ids.get(tenant_id, ()))

    def of_tenant(self, tenant_id: str, after: str = BEFORE_EVERY_ID) -> Iterator[Entry]:
        """The tenant's functions with ids above `after`, oldest first (ids are in the order of
        their making). To be read before anything else happens.
        """
        ids = self._ids.get(tenant_id, [])
        return (self._by_id[ids[at]] for at in range(bisect_right(ids, after), len(ids)))

    def owned(self, tenant_id: str, function_ids: Iterable[str]) -> list[str]:
        """Those of the functions that are there and the tenant's."""
        found = ((one, self._by_id.get(one)) for one in function_ids)
        return [one for one, entry in found if entry and entry.function.tenant_id == tenant_id]

    def all(self) -> Iterator[Entry]:
        return iter(list(self._by_id.values()))


class CatalogFollower:
    """Brings into a catalog what other servers change in the store that they share with this one.

    Call `start` before the functions are loaded, then `refresh` now and then. What this server
    changes itself is in the catalog already and is not brought again.
    """

    def __init__(self, catalog: Catalog, store: Store) -> None:
        self._catalog, self._store = catalog, store
        self._seen = 0

    async def start(self) -> None:
        """Follows from the newest change on."""
        self._seen = await self._store.newest_change()

    async def refresh(self) -> None:
        """Reads the changes since the last time, and the functions that they name."""
        while True:
            page = await self._store.changes(self._seen)
            if not page.is_complete:
                return await self._reload()
            if not page.items:
                return None
            functions = (one for one in page.items if one.kind is ChangeKind.FUNCTION)
            for function_id in dict.fromkeys(one.object_id for one in functions):
                self._catalog.follow_change(function_id, await self._store.find(function_id))
            self._seen = page.items[-1].number

    async def _reload(self) -> None:
        """Some changes are no longer kept: compares every function."""
        self._seen = await self._store.newest_change()
        found = {one.function.id: one for one in await self._store.load()}
        known = {entry.function.id for entry in self._catalog.all()}
        for function_id in known | found.keys():
            self._catalog.follow_change(function_id, found.get(function_id))
