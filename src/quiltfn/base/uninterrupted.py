"""Runs work to its end, even if its caller is cancelled."""

import asyncio
from collections.abc import Coroutine
from typing import Any, TypeVar

T = TypeVar("T")


async def uninterrupted(work: Coroutine[Any, Any, T]) -> T:
    """Runs `work` to its end. If the caller is cancelled meanwhile, raises `CancelledError` only
    after the end of `work`.

    This keeps memory consistent with the store.
    """
    task = asyncio.ensure_future(work)
    cancelled: asyncio.CancelledError | None = None
    while not task.done():
        try:
            await asyncio.wait([task])
        except asyncio.CancelledError as error:
            cancelled = error
    if cancelled is not None:
        if not task.cancelled():
            # otherwise the event loop would report the exception as never retrieved
            task.exception()
        raise cancelled
    return task.result()
