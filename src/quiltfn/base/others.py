"""Others: the other servers on the same store, for decisions that rely on data in memory."""

import asyncio
from collections.abc import Awaitable, Callable
from contextlib import suppress

from quiltfn.model.errors import StoreUnavailable, cut_off

# How long a request waits for the changes of other nodes, in seconds.
HEAR_MAX_S = 0.5


async def _nothing() -> None:
    """The `catch_up` of a standalone server, which does nothing."""


class Others:
    """The other servers. Without arguments, those of a standalone server: none.

    `catch_up`: when it returns, memory has all changes that others made before it was called;
    raises `StoreUnavailable`. `has_older_nodes`: whether there is a node of an earlier release,
    which could misread newer data. `count`: the known number of servers, including this one.
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
        """As `catch_up`, but waits at most `HEAR_MAX_S` for the database. Returns False if the
        database did not respond: memory may then be outdated.
        """
        with suppress(StoreUnavailable, TimeoutError):
            async with asyncio.timeout(HEAR_MAX_S):
                await self.catch_up()
            return True
        return False

    async def hear_of_missing(self) -> None:
        """Call this if something is not found in memory, since another node may have created it.
        Raises `StoreUnavailable` if changes of other nodes are unknown.
        """
        if not await self.hear():
            raise cut_off()
