"""KnownVersions: caches versions that invocations have named. A version never changes."""

from quiltfn.functions.catalog import Entry
from quiltfn.model.errors import NotFound
from quiltfn.model.version import Version, no_version
from quiltfn.store.functions.functions import SqlStore

KNOWN_MAX_BYTES = 8 * 1024 * 1024


class KnownVersions:
    """An LRU cache of versions of all functions."""

    def __init__(self, store: SqlStore) -> None:
        self._store = store
        self._known: dict[tuple[str, int], Version] = {}
        self._size = 0
        self._forgotten = 0  # number of `forget`s: a version that was read before one may be gone

    def forget(self, function_id: str) -> None:
        """Drop the function's versions: storing its new version may have removed older ones."""
        self._forgotten += 1
        for key in [key for key in self._known if key[0] == function_id]:
            self._size -= self._known.pop(key).spec.size

    async def of(self, entry: Entry, number: int) -> Version:
        """A version of a function. Raises `NotFound`."""
        if number == entry.version.number:
            return entry.version
        key = entry.function.id, number
        version = self._known.pop(key, None)
        if version is None:
            before = self._forgotten
            version = await self._store.version(*key)
            if version is None:
                raise NotFound(no_version(number))
            if self._forgotten != before:  # the version may have been removed after it was read
                return version
            if key not in self._known:  # otherwise another reader has just added it
                self._size += version.spec.size
        self._known[key] = version  # added again at the end, as the most recently used
        while self._size > KNOWN_MAX_BYTES and len(self._known) > 1:
            oldest = next(iter(self._known))
            self._size -= self._known.pop(oldest).spec.size
        return version
