"""Which node keeps a function's `min_instances`, and ends its deployment: the one that the function
names as its owner.

Where the owner has left or was given up, one of the others takes its place: the same one in the
eyes of all, and the store lets only one change a function at a time. A function may be heard of
before the start of its owner: an owner is given up by what was read after that.
"""

import asyncio
from collections.abc import Awaitable, Callable, Collection, Iterable, Sequence
from typing import NamedTuple

import structlog

from quiltfn.fleet.rendezvous import in_order
from quiltfn.model.errors import NotFound, Outdated, StoreUnavailable
from quiltfn.model.function import Function, FunctionState
from quiltfn.model.member import Member

_log = structlog.get_logger("quiltfn.fleet")
LOOK_EVERY_S = 1.0
# The first may have been under way when the function was heard of.
READS = 2


class Places(NamedTuple):
    """The nodes that may go on keeping a minimum, and those that may begin to. `number`: of the
    read of the store that says so.
    """

    keepers: Collection[str] = frozenset()
    heirs: Collection[str] = frozenset()
    number: int = 0

    @classmethod
    def of(cls, members: Sequence[Member], number: int = 0) -> "Places":
        """As the nodes were at that read. One that does not answer keeps its place until it is
        taken over.
        """
        return cls(
            keepers=frozenset(one.name for one in members if one.keeps),
            heirs=frozenset(one.name for one in members if one.takes_more),
            number=number,
        )


async def keep_minimum(
    functions: Callable[[], Iterable[Function]],
    own: Callable[[str], Awaitable[object]],
    me: str,
    places: Callable[[], Places],
) -> None:
    """Runs until it is cancelled. `own` makes this node, `me`, the owner of a function."""
    heard: dict[tuple[str, str], int] = {}  # By function and owner: the read before that.
    while True:
        await asyncio.sleep(LOOK_EVERY_S)
        keepers, heirs, number = places()
        owned = [one for one in functions() if _needs_owner(one)]
        keys = [(one.id, one.owner_node_id) for one in owned]
        heard = {key: heard.get(key, number) for key in keys}
        for function, key in zip(owned, keys, strict=True):
            if function.owner_node_id in keepers or number - heard[key] < READS:
                continue
            if in_order(function.id, heirs)[:1] != [me]:
                continue
            try:
                await own(function.id)
                _log.info("this node is the function's owner now", function=function.id)
            except (NotFound, Outdated, StoreUnavailable) as error:
                _log.info(f"another look is due: {error}", function=function.id)


def _needs_owner(function: Function) -> bool:
    has_minimum = function.state is FunctionState.ACTIVE and function.min_instances > 0
    return has_minimum or function.state is FunctionState.DEPLOYING
