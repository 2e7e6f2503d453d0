"""Retries store operations until the store is available."""

import asyncio
from collections.abc import Awaitable, Callable
from typing import TypeVar

from quiltfn.model.errors import StoreUnavailable
from quiltfn.ports import STORE_AGAIN_S

T = TypeVar("T")


async def until_stored(
    work: Callable[[], Awaitable[T]],
    refused: Callable[[StoreUnavailable], None] = lambda _: None,
) -> T:
    """Repeats `work` while it raises `StoreUnavailable`, and returns its result. `refused`: called
    after each failure.
    """
    while True:
        try:
            return await work()
        except StoreUnavailable as away:
            refused(away)
            await asyncio.sleep(STORE_AGAIN_S)
