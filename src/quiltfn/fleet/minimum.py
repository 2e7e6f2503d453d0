"""Decides which node owns a function, that is, keeps its `min_instances` and deploys it.

The function names its owner. If the owner stops, is lost, or is drained or removed, another node
takes its place: all nodes choose the same one, and the store accepts only one change of a function
at a time. This node may see a function before it sees that the owner has started, so an owner is
replaced only after a later read.
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
# Reads before an owner is replaced: the first may have begun before the function was seen.
READS = 2


class Places(NamedTuple):
    """`keepers`: the nodes that may remain owners; `heirs`: those that may become owners. `number`:
    the number of the read with these states.
    """

    keepers: Collection[str] = frozenset()
    heirs: Collection[str] = frozenset()
    number: int = 0

    @classmethod
    def of(cls, members: Sequence[Member], number: int = 0) -> "Places":
        """The nodes' states at that read. A silent node remains an owner until it is taken over."""
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
    """Run until cancelled. `own` makes this node, `me`, the owner of a function."""
    # By function and owner: the number of the last read before both were seen.
    heard: dict[tuple[str, str], int] = {}
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
