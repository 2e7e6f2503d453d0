"""One node keeps a function's minimum of instances; if it leaves, another one does."""

import asyncio
import itertools
from collections.abc import Callable
from typing import Any

import pytest
from msgspec.structs import replace

from contract.stores import a_function
from promises import promise
from quiltfn.fleet import minimum
from quiltfn.fleet.minimum import Places, keep_minimum
from quiltfn.model.errors import Outdated
from quiltfn.model.function import Function, FunctionState
from quiltfn.model.member import Member, NodeState, Presence, Report

pytestmark = promise("N67")

NODES = [f"node-{number}" for number in range(5)]


def a_kept(owner: str, **changes: Any) -> Function:
    kept = {"state": FunctionState.ACTIVE, "min_instances": 1, "owner_node_id": owner}
    return a_function(**{**kept, **changes})


@pytest.fixture(autouse=True)
def _at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(minimum, "LOOK_EVERY_S", 0)


async def taken(
    me: str,
    functions: list[Function],
    places: Places,
    fails: int = 0,
    read: Callable[[int], Places] | None = None,
) -> set[str]:
    """The ids of the functions whose owner the node becomes. `read`: the result of each look, by
    its number; None: `places`.
    """
    found, left, numbers = dict[str, None](), [fails], itertools.count(1)

    def look() -> Places:
        number = next(numbers)
        return (places if read is None else read(number))._replace(number=number)

    async def own(function_id: str) -> None:
        if left[0]:
            left[0] -= 1
            raise Outdated("another node was first")
        found[function_id] = None
        functions[:] = [
            replace(one, owner_node_id=me) if one.id == function_id else one for one in functions
        ]

    keeping = asyncio.ensure_future(keep_minimum(lambda: functions, own, me, look))
    for _ in range(30):
        await asyncio.sleep(0)
    keeping.cancel()
    return set(found)


async def test_the_functions_of_a_node_that_has_left_get_another_owner() -> None:
    functions = [a_kept("gone") for _ in range(20)]
    ids = {one.id for one in functions}
    places = Places(keepers={"a", "b"}, heirs={"a", "b"})
    of_a, of_b = [await taken(one, list(functions), places) for one in ("a", "b")]
    assert of_a | of_b == ids
    assert not of_a & of_b
    assert of_a
    assert of_b


async def test_an_owner_that_is_there_keeps_it() -> None:
    places = Places(keepers={"a", "cordoned"}, heirs={"a"})
    assert await taken("a", [a_kept("cordoned")], places) == set()
    assert len(await taken("a", [a_kept("draining")], places)) == 1


@pytest.mark.parametrize("reads_before", [1, 2])
async def test_the_owner_may_have_started_since_the_nodes_were_read(reads_before: int) -> None:
    before, after = Places({"a"}, {"a"}), Places({"a", "new"}, {"a", "new"})
    function = a_kept("new")

    def read(number: int) -> Places:
        return before if number <= reads_before else after

    assert await taken("a", [function], before, read=read) == set()
    assert await taken("a", [function], before) == {function.id}  # the owner's heartbeat is missing


@promise("N76")
def test_a_node_that_leaves_neither_keeps_a_minimum_nor_inherits_one() -> None:
    own = {"ready": NodeState.READY, "cordoned": NodeState.CORDONED, "drained": NodeState.DRAINING}
    members = [Member(name=name, epoch=1, version="1", state=it) for name, it in own.items()]
    leaving = replace(members[0], name="leaving", report=Report(is_leaving=True))
    members += [leaving, replace(members[0], name="left", presence=Presence.LEFT)]
    assert Places.of(members) == Places(keepers={"ready", "cordoned"}, heirs={"ready"})


async def test_only_functions_that_have_a_minimum_or_are_deployed_get_one() -> None:
    functions = [
        a_kept("gone", min_instances=0),
        a_kept("gone", state=FunctionState.PAUSED),
        a_kept("gone", state=FunctionState.DEPLOYING, min_instances=0),
    ]
    deploying = functions[2].id
    assert await taken("a", functions, Places({"a"}, {"a"})) == {deploying}
    assert await taken("b", functions, Places({"a"}, {"a"})) == set()
    assert await taken("a", [a_kept("gone")], Places()) == set()  # the node has not looked yet


async def test_where_another_was_first_it_looks_again() -> None:
    assert len(await taken("a", [a_kept("gone")], Places({"a"}, {"a"}), fails=2)) == 1
