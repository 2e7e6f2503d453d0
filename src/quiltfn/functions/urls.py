"""The URLs of functions in memory, and which function a path below `/fn/` stands for.

A URL has a long form, `/fn/<tenant>/<name>`, and for functions of the tenant `default` a short one,
`/fn/<name>`. Rule: the first segment names a tenant if there is one of that name: it has a function
or a key, or has ever had a URL. Otherwise it is the name of a function of `default`. So the long
form always means the same, and a path that was a tenant's never becomes another one's.
"""

import asyncio
from collections.abc import Callable, Sequence

import msgspec

from quiltfn.functions.catalog import Catalog, Entry
from quiltfn.model.function import Function
from quiltfn.model.url import SHORT_TENANT, FunctionUrl, Refusal, Refusals
from quiltfn.ports import Change
from quiltfn.store.functions.urls import SqlUrls


class Found(msgspec.Struct, frozen=True):
    """A function with a URL. `segments`: how many of the path name it; 1 in the short form.
    `alias`: that of <name>@<alias>, if the path has one.
    """

    entry: Entry
    url: FunctionUrl
    segments: int
    alias: str | None = None


class Urls:
    """Which functions have a URL. A change is stored first and is in memory only then.

    `host`: where they are served, and nothing else is; "": on the host of the API. `has_keys`:
    whether a tenant has a key, even if it is revoked.
    """

    def __init__(
        self,
        store: SqlUrls,
        catalog: Catalog,
        host: str = "",
        has_keys: Callable[[str], bool] = lambda _: False,
    ) -> None:
        self._store, self._catalog, self.host = store, catalog, host.lower()
        self._has_keys = has_keys
        self._by_function: dict[str, FunctionUrl] = {}
        # Of those whose URL refused a call since the start.
        self._refusals: dict[str, Refusals] = {}
        # Those that have ever had a URL.
        self._tenants = {SHORT_TENANT}
        self._changing = asyncio.Lock()  # so that memory has what was stored last

    async def restore(self) -> None:
        """Loads what is stored. Called at the start."""
        self._tenants.update(await self._store.tenants())
        for one in await self._store.load():
            self._put(one.function_id, one.tenant_id, one.url)

    def of(self, function_id: str) -> FunctionUrl | None:
        return self._by_function.get(function_id)

    def refusals(self, function_id: str) -> Refusals:
        """What the function's URL refused since the start, or since it got one."""
        return self._refusals.get(function_id) or Refusals()

    def refused(self, function_id: str, reason: Refusal, now: float) -> None:
        """Counts a call that was refused, if the function has a URL."""
        if function_id in self._by_function:
            self._refusals.setdefault(function_id, Refusals()).add(reason, now)

    async def set(self, entry: Entry, url: FunctionUrl | None) -> None:
        """Replaces the URL of a function; None: it has none. Raises `NotFound` if the function was
        deleted meanwhile, and `StoreUnavailable`.
        """
        function = entry.function
        async with self._changing:
            await self._store.save(function.id, url)
            self._catalog.get(function.id)  # it may have been deleted in the same moment
            self._put(function.id, function.tenant_id, url)

    async def follow_changes(self, changes: Sequence[Change] | None) -> None:
        """Takes over what other nodes have made of URLs, of functions that the catalog has by now;
        None: of all of them.
        """
        only = None if changes is None else {one.object_id for one in changes}
        async with self._changing:
            self._tenants.update(await self._store.tenants())
            found = {one.function_id: one.url for one in await self._store.load(only)}
            for function_id in self._by_function.keys() | found.keys() if only is None else only:
                url = found.get(function_id)
                entry = self._catalog.known(function_id)
                if entry is not None and url != self._by_function.get(function_id):
                    self._put(function_id, entry.function.tenant_id, url)

    def find(self, first: str, second: str | None) -> Found | None:
        """The function that a path names by its first two segments; None: there is no such URL."""
        if first in self._tenants or self._is_tenant(first):
            return None if second is None else self._named(first, second, 2)
        return self._named(SHORT_TENANT, first, 1)

    def _is_tenant(self, first: str) -> bool:
        return first in self._tenants or bool(self._catalog.count(first)) or self._has_keys(first)

    def function_changed(self, before: Function | None, after: Function | None) -> None:
        """Is told by the catalog: the URL of a function that was deleted goes with it."""
        if before is not None and after is None:
            self._put(before.id, before.tenant_id, None)

    def _named(self, tenant_id: str, name: str, segments: int) -> Found | None:
        entry, alias = self._catalog.find(tenant_id, name), None
        if entry is None and "@" in name:  # which no name has
            name, _, alias = name.partition("@")
            entry = self._catalog.find(tenant_id, name)
        url = None if entry is None else self._by_function.get(entry.function.id)
        return None if entry is None or url is None else Found(entry, url, segments, alias)

    def _put(self, function_id: str, tenant_id: str, url: FunctionUrl | None) -> None:
        if url is not None:
            self._by_function[function_id] = url
            self._tenants.add(tenant_id)
        else:
            self._by_function.pop(function_id, None)
            self._refusals.pop(function_id, None)
