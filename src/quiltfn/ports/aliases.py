"""What the verbs ask of whoever stores the aliases of functions."""

from collections.abc import Collection, Sequence
from typing import Protocol

import msgspec

from quiltfn.model.alias import Alias


class StoredAlias(msgspec.Struct, frozen=True, kw_only=True):
    """An alias of a function."""

    function_id: str
    alias: Alias


class AliasStore(Protocol):
    """The aliases of functions; they go with their functions. Raises `StoreUnavailable`."""

    async def load(self, only: Collection[str] | None = None) -> Sequence[StoredAlias]:
        """All of them, or those of the functions with these ids."""

    async def save(
        self, function_id: str, name: str, alias: Alias | None, known: Alias | None
    ) -> None:
        """Replaces `known`; None: makes it. `alias` None: removes it. Raises `NotFound` if the
        function was deleted, and `Outdated` if the alias is another by now, or if one of another
        name is the default that this one would become, or the last one that there may be.
        """
