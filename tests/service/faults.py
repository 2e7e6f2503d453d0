"""Injects faults into an asynchronous method until the end of a block.

To record only its calls, use `patch.object` of `unittest.mock` with `wraps`.
"""

import asyncio
import contextlib
import itertools
from collections.abc import Callable, Iterator
from typing import Any
from unittest.mock import DEFAULT, AsyncMock, patch

from quiltfn.model.errors import OutcomeUnknown, StoreUnavailable
from quiltfn.ports import SandboxFailed


class HeldUp:
    """`begun`: set once a call waits. `may_go_on`: lets this call and later ones continue."""

    def __init__(self) -> None:
        self.begun, self.may_go_on = asyncio.Event(), asyncio.Event()


@contextlib.contextmanager
def held_up(
    owner: Any, name: str, which: Callable[..., bool] = lambda *_: True, *, is_done: bool = False
) -> Iterator[HeldUp]:
    """Delays calls whose arguments `which` accepts: before or, with `is_done`, after their work."""
    method, state = getattr(owner, name), HeldUp()

    async def slow(*given: Any, **named: Any) -> Any:
        early = await method(*given, **named) if is_done else None
        if which(*given):
            state.begun.set()
            await state.may_go_on.wait()
        return early if is_done else await method(*given, **named)

    with patch.object(owner, name, slow):
        yield state


def away(owner: Any, name: str) -> contextlib.AbstractContextManager[AsyncMock]:
    """Makes the method fail as if the store did not respond."""
    return patch.object(owner, name, side_effect=StoreUnavailable)


def no_room(sandboxes: Any) -> contextlib.AbstractContextManager[AsyncMock]:
    """Makes every attempt to create a sandbox fail for lack of room."""
    error = SandboxFailed("there is no room for another sandbox")
    return patch.object(sandboxes, "create", side_effect=error)


def failing(
    owner: Any, name: str, *errors: Exception, after: int = 0
) -> contextlib.AbstractContextManager[AsyncMock]:
    """After `after` calls, the method fails once with each of the errors, and then works again."""
    errors = errors or (StoreUnavailable(),)
    effects = itertools.chain([DEFAULT] * after, errors, itertools.repeat(DEFAULT))
    return patch.object(owner, name, wraps=getattr(owner, name), side_effect=effects)


@contextlib.contextmanager
def silent(owner: Any, name: str, *, is_made: bool, times: int = 1) -> Iterator[AsyncMock]:
    """Makes the first calls of a store's method fail with an unknown outcome. `is_made`: whether
    these calls change the data.
    """
    method = getattr(owner, name)

    async def unknown(*given: Any, **named: Any) -> Any:
        if double.call_count > times:
            return await method(*given, **named)
        if is_made:
            await method(*given, **named)
        raise OutcomeUnknown

    with patch.object(owner, name, side_effect=unknown) as double:
        yield double
