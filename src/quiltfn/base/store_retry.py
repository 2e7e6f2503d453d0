"""What is done again until the store takes it, or gives it."""

import asyncio
from collections.abc import Awaitable, Callable
from typing import TypeVar

from quiltfn.model.errors import StoreUnavailable
from quiltfn.ports import STORE_AGAIN_S

T = TypeVar("T")


async def until_stored(work: Callable[[], Awaitable[T]]) -> T:
    """What `work` gives, once it does not raise `StoreUnavailable`. It is done from its beginning
    each time.
    """
    while True:
        try:
            return await work()
        except StoreUnavailable:
            await asyncio.sleep(STORE_AGAIN_S)
