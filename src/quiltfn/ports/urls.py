"""What the verbs ask of whoever stores the URLs of functions."""

from collections.abc import Collection, Sequence
from typing import Protocol

import msgspec

from quiltfn.model.url import FunctionUrl


class StoredUrl(msgspec.Struct, frozen=True, kw_only=True):
    """The URL of a function of a tenant."""

    function_id: str
    tenant_id: str
    url: FunctionUrl


class UrlStore(Protocol):
    """The URLs of functions; they go with their functions. Raises `StoreUnavailable`."""

    async def load(self, only: Collection[str] | None = None) -> Sequence[StoredUrl]:
        """All of them, or those of the functions with these ids."""

    async def tenants(self) -> Sequence[str]:
        """Those that have ever had a URL, which nobody else is to get."""

    async def save(self, function_id: str, url: FunctionUrl | None) -> None:
        """Replaces one; None: there is none any more. Raises `NotFound` if the function was
        deleted.
        """
