"""Retries store operations until the store is available."""

import asyncio
from collections.abc import Awaitable, Callable
from typing import TypeVar

from quiltfn.model.errors import StoreUnavailable
from quiltfn.ports import STORE_AGAIN_S

T = TypeVar("T")


async def until_stored(work: Callable[[], Awaitable[T]], warning: str = "") -> T:
    """Runs `work` from its beginning until it does not raise `StoreUnavailable`, and returns its
    result. `warning`: what the log says of each time that it does.
    """
    while True:
        try:
            return await work()
        except StoreUnavailable as away:
            if warning:
                import structlog  # noqa: PLC0415  # commands do without it

                structlog.get_logger("quiltfn.base.store_retry").warning(f"{warning}: {away}")
            await asyncio.sleep(STORE_AGAIN_S)
