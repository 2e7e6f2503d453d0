"""The URLs of functions in memory, and the resolution of paths below `/fn/`.

A URL has a long form, `/fn/<tenant>/<name>`, and for functions of the tenant `default` a short one,
`/fn/<name>`. Rule: the first segment names a tenant if that tenant exists, that is, has a function
or a key, or has ever had a URL. Otherwise the segment names a function of `default`. So the long
form always means the same, and a tenant's path never passes to another tenant.
"""

from collections.abc import Callable, Collection, Mapping

import msgspec

from quiltfn.base.mirror import Mirror
from quiltfn.functions.catalog import Catalog, Entry
from quiltfn.model.url import SHORT_TENANT, FunctionUrl, Refusal, Refusals
from quiltfn.store.functions.urls import SqlUrls


class Found(msgspec.Struct, frozen=True):
    """A function with a URL. `segments`: the number of path segments that name it; 1 in the short
    form. `alias`: the alias in <name>@<alias>, if the path has one.
    """

    entry: Entry
    url: FunctionUrl
    segments: int
    alias: str | None = None


class Urls(Mirror[FunctionUrl]):
    """The functions that have a URL.

    `host`: a host name that serves only URLs; "": the host of the API. `has_keys`: returns whether
    a tenant has a key, even a revoked one.
    """

    def __init__(
        self,
        store: SqlUrls,
        catalog: Catalog,
        host: str = "",
        has_keys: Callable[[str], bool] = lambda _: False,
    ) -> None:
        super().__init__()
        self._store, self._catalog, self.host = store, catalog, host.lower()
        self._has_keys = has_keys
        # By function: the invocations that its URL has refused since the start.
        self._refusals: dict[str, Refusals] = {}
        # The tenants that have ever had a URL.
        self._tenants = {SHORT_TENANT}

    async def _stored(self, only: Collection[str] | None) -> Mapping[str, FunctionUrl]:
        """Load the URLs of functions that are in the catalog."""
        self._tenants.update(await self._store.tenants())
        rows, known = await self._store.load(only), self._catalog.known
        return {key: url for key, url in rows if known(key) is not None}

    def _changed(self, key: str, before: FunctionUrl | None, after: FunctionUrl | None) -> None:
        del before
        if after is None:
            self._refusals.pop(key, None)
        else:
            self._tenants.add(self._catalog.get(key).function.tenant_id)

    def of(self, function_id: str) -> FunctionUrl | None:
        return self._rows.get(function_id)

    def refusals(self, function_id: str) -> Refusals:
        """Invocations that the URL has refused since the server's start, or since its creation."""
        return self._refusals.get(function_id) or Refusals()

    def refused(self, function_id: str, reason: Refusal, now: float) -> None:
        """Count a refused invocation, if the function has a URL."""
        if function_id in self._rows:
            self._refusals.setdefault(function_id, Refusals()).add(reason, now)

    async def set(self, entry: Entry, url: FunctionUrl | None) -> None:
        """Replace the URL of a function; None removes it. Raises `NotFound` if the function was
        deleted meanwhile, and `StoreUnavailable`.
        """
        function = entry.function
        async with self._changing:
            await self._store.save(function.id, url)
            self._catalog.get(function.id)  # the function may have been deleted at the same moment
            self._put(function.id, url)

    def find(self, first: str, second: str | None) -> Found | None:
        """The function that the first two segments of a path name; None: there is no such URL."""
        if first in self._tenants or self._is_tenant(first):
            return None if second is None else self._named(first, second, 2)
        return self._named(SHORT_TENANT, first, 1)

    def _is_tenant(self, first: str) -> bool:
        return first in self._tenants or bool(self._catalog.count(first)) or self._has_keys(first)

    def _named(self, tenant_id: str, name: str, segments: int) -> Found | None:
        entry, alias = self._catalog.find(tenant_id, name), None
        if entry is None and "@" in name:  # names never contain an @
            name, _, alias = name.partition("@")
            entry = self._catalog.find(tenant_id, name)
        url = None if entry is None else self._rows.get(entry.function.id)
        return None if entry is None or url is None else Found(entry, url, segments, alias)
