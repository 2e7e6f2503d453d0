"""Others: the other servers on the same store, for whoever decides by what memory has of it."""

import asyncio
from collections.abc import Awaitable, Callable
from contextlib import suppress

from quiltfn.model.errors import StoreUnavailable, cut_off

# How long a request waits to hear of what other nodes have changed.
HEAR_MAX_S = 0.5


async def _nothing() -> None:
    """What a server that is alone has to catch up with."""


class Others:
    """Without arguments: there can be none. `catch_up`: when it returns, memory has what others had
    changed before it was called; it raises `StoreUnavailable`. `has_older_nodes`: whether a node of
    an earlier version is there, which would misread what it does not know. `count`: how many
    servers there are, this one included, as far as it has seen.
    """

    def __init__(
        self,
        catch_up: Callable[[], Awaitable[None]] = _nothing,
        has_older_nodes: Callable[[], bool] = bool,
        count: Callable[[], int] = lambda: 1,
    ) -> None:
        self.are_possible = catch_up is not _nothing
        self.catch_up, self.has_older_nodes, self.count = catch_up, has_older_nodes, count

    async def hear(self) -> bool:
        """As `catch_up`, but nobody waits long for a database that does not answer: then all is as
        it is known here, and False is returned.
        """
        with suppress(StoreUnavailable, TimeoutError):
            async with asyncio.timeout(HEAR_MAX_S):
                await self.catch_up()
            return True
        return False

    async def hear_of_missing(self) -> None:
        """Hears of what is missing here, as another node may have made it. Raises
        `StoreUnavailable` where it could not hear of others.
        """
        if not await self.hear():
            raise cut_off()
