"""Where a call runs, given this node's instances and the reports of the others."""

from random import Random
from typing import Any, NamedTuple

import pytest
from msgspec.structs import replace

from promises import promise
from quiltfn.base.others import Others
from quiltfn.fleet.placement import Destination, ImagePlaces, Placement
from quiltfn.fleet.routing import RoutingTable
from quiltfn.model.forwarded import ForwardedCall, Refusal
from quiltfn.model.pool_load import PoolLoad

pytestmark = promise("N45", "N16")

F, V = "f", 1


def load(idle: int = 0, busy: int = 0, waiting: int = 0, slots: int = 2) -> PoolLoad:
    return PoolLoad(F, V, idle, busy, waiting, slots)


def a_call(**fields: Any) -> ForwardedCall:
    known: dict[str, Any] = {"function_id": F, "invocation_id": "i", "client": "::1", "version": V}
    return ForwardedCall(**known | fields)


READY, BUSY, NO_SLOTS = load(idle=1), load(busy=2), load(slots=0)


class Node:
    """A node with a pool, and the fleet's response to a request for one more instance. `others`:
    the nodes that accept calls, with their last reports; None: no report.
    """

    def __init__(
        self,
        here: PoolLoad | None,
        *,
        may_start: bool = False,
        image: ImagePlaces | None = None,
        runs: bool = True,
        takes: bool = True,
        starts: bool = True,
        **others: PoolLoad | None,
    ) -> None:
        self.here, self.is_granted, self.where, self.asked = here, may_start, image, 0
        self.runs, self.takes, self.starts = runs, takes, starts
        self.held_by: list[str] = []
        self.table = RoutingTable(Random(3))
        for name, pool in others.items():
            self.table.reported(name, [pool] if pool else [])
        self.table.retain(others)
        own: Any = self
        self.placement = Placement(self.table, own, Others().hear)

    def load(self, _function_id: str) -> PoolLoad | None:
        return self.here

    def holders(self, _function_id: str) -> list[str]:
        return self.held_by

    def image(self, _function_id: str) -> ImagePlaces | None:
        return self.where

    def serves(self) -> bool:
        return self.runs

    def takes_calls(self) -> bool:
        return self.takes

    def may_start(self) -> bool:
        return self.starts

    async def obtain(self, function_id: str) -> bool:
        assert function_id == F
        self.asked += 1
        return self.is_granted

    async def place(self, *tried: str) -> Destination | None:
        return await self.placement.place(F, V, tried)


HERE = None


def runs_at(node: str) -> Destination:
    return Destination(node, may_wait=False)


def waits_at(node: str) -> Destination:
    return Destination(node, may_wait=True)


def begins_at(node: str) -> Destination:
    """The call is sent to this node, and waits there even if the node may have no instance yet."""
    return Destination(node, may_wait=True, in_any_case=True)


def image_at(*nodes: str, is_here: bool = False) -> ImagePlaces:
    return ImagePlaces(is_here, set(nodes))


def starter(image: ImagePlaces | None = None, **others: Any) -> Node:
    """A node without slots, which gets one if it asks for it."""
    return Node(NO_SLOTS, may_start=True, image=image, **others)


class Case(NamedTuple):
    """A call that a node places. `asked`: how often the node asked the fleet for an instance."""

    name: str
    node: Node
    expected: Destination | None
    tried: tuple[str, ...] = ()
    asked: int = 0


ONE_WAITS, TWO_WAIT = load(busy=2, waiting=1), load(busy=2, waiting=2)
OWN_SLOT = load(busy=1, slots=1)
MANY: dict[str, Any] = {f"n{number}": None for number in range(20)}
CASES = [
    Case("an instance that is ready here", Node(READY, b=load(idle=2)), HERE),
    Case("then one elsewhere", Node(load(busy=1), may_start=True, b=READY), runs_at("b")),
    Case("then one started here", starter(b=BUSY), HERE, asked=1),
    Case("then it waits where slots are", Node(NO_SLOTS, b=BUSY), waits_at("b"), asked=1),
    Case("without another node it waits here", Node(NO_SLOTS), HERE, asked=1),
    Case("fewer wait here", Node(BUSY, b=ONE_WAITS), HERE, asked=1),
    Case("fewer wait there", Node(TWO_WAIT, b=ONE_WAITS), waits_at("b"), asked=1),
    Case("b was tried", Node(NO_SLOTS, b=READY, c=BUSY), waits_at("c"), ("b",), asked=1),
    Case("all were tried", Node(NO_SLOTS, b=READY, c=BUSY), HERE, ("b", "c"), asked=1),
    # The function is paused here, or being deleted: no other node is asked to run the call.
    Case("no pool here", Node(None, b=BUSY), HERE),
    # If another node has the image, that node starts an instance, so that this one need not fetch
    # the image. This rule does not apply if calls wait at the other node.
    Case("the image is there", starter(image_at("b"), b=BUSY), waits_at("b")),
    Case("the image is here", starter(image_at("b", is_here=True), b=BUSY), HERE, asked=1),
    Case("the image, and no pool yet", starter(image_at("c"), b=None, c=None), waits_at("c")),
    Case("c was tried", starter(image_at("c"), b=None, c=None), HERE, ("c",), asked=1),
    Case("calls wait there", starter(image_at("b", "c"), b=ONE_WAITS, c=TWO_WAIT), HERE, asked=1),
    Case("its node takes no calls", starter(image_at("gone"), b=load(busy=1)), HERE, asked=1),
    Case("ready here", Node(READY, image=image_at("b"), b=load(busy=1)), HERE),
    Case("ready elsewhere", starter(image_at("b"), b=load(busy=1), c=READY), runs_at("c")),
    # A node that runs no calls sends its own calls to others, even to one without instances.
    Case("drained", Node(READY, may_start=True, runs=False, b=READY), begins_at("b")),
    Case("drained; others are busy", Node(READY, runs=False, b=BUSY), begins_at("b")),
    Case("drained; no pool there", Node(READY, runs=False, b=None), begins_at("b")),
    # A node that refused the call before may accept it now: there is no other node.
    Case("drained; tried", Node(READY, runs=False, b=None), begins_at("b"), ("b",)),
    Case(
        "drained; one of many has the image",
        Node(READY, runs=False, image=image_at("n7", is_here=True), **MANY),
        begins_at("n7"),
    ),
    Case("it takes no calls of others", Node(READY, takes=False, b=load(idle=2)), HERE),
]
# The store may be unreachable for all nodes, or only for this one.
WITHOUT_STORE = [
    Case("ready here", Node(READY, starts=False, b=READY), HERE),
    Case("ready elsewhere", Node(OWN_SLOT, starts=False, b=READY), runs_at("b")),
    Case("tried", Node(OWN_SLOT, starts=False, b=READY), HERE, ("b",), asked=1),
    Case("no slots", Node(NO_SLOTS, starts=False, b=READY), begins_at("b")),
    Case("no pool", Node(None, starts=False, b=READY), begins_at("b")),
]


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
async def test_where_a_call_runs(case: Case) -> None:
    assert await case.node.place(*case.tried) == case.expected
    assert case.node.asked == case.asked


@promise("N72")
@pytest.mark.parametrize("case", WITHOUT_STORE, ids=lambda case: case.name)
async def test_a_node_that_does_not_reach_the_store_goes_on_with_what_it_has(case: Case) -> None:
    await test_where_a_call_runs(case)


@promise("N93")
async def test_a_call_that_is_placed_for_the_last_time_waits_where_an_instance_is_ready() -> None:
    """The instance may be taken by the time the call arrives."""
    node = Node(load(busy=1), b=READY)
    assert await node.placement.place(F, V, is_last=True) == waits_at("b")


@promise("N93")
async def test_it_waits_at_a_node_that_has_the_places_though_that_has_not_said_so_yet() -> None:
    """The node may not have reported its slots yet, for example right after a function was resumed
    there.
    """
    node = Node(NO_SLOTS, b=BUSY)
    node.table.reported("b")
    node.held_by = ["b"]
    assert await node.place() == waits_at("b")
    assert await node.place("b") is HERE
    node.here = load(busy=1, slots=1)
    assert await node.place() is HERE


async def test_a_call_of_another_version_runs_here_unless_the_node_is_drained() -> None:
    node = Node(None, b=load(idle=3))
    assert await node.placement.place(F, V, names_version=True) is HERE
    node.runs = False
    assert await node.placement.place(F, V, names_version=True) == begins_at("b")


async def test_a_node_that_is_drained_while_it_asks_for_an_instance_sends_the_call_on() -> None:
    node = starter(b=BUSY)

    async def obtain(_: str) -> bool:
        node.runs = False
        return True

    node.obtain = obtain  # type: ignore[method-assign, assignment]
    assert await node.place() == begins_at("b")


async def test_a_node_that_refused_gets_no_call_before_its_next_report() -> None:
    """A node that refused a call, or was not reached, gets no call even if it has the image."""
    node = starter(image_at("b"), b=load(busy=1))
    node.placement.update("b", F, None)
    assert await node.place() is HERE
    node.table.reported("b", [load(busy=1)])
    assert await node.place() == waits_at("b")


async def test_what_a_node_says_with_an_answer_counts_at_once() -> None:
    node = Node(NO_SLOTS, b=READY)
    node.placement.update("b", F, BUSY)
    assert await node.place() == waits_at("b")
    node.placement.update("b", F, None)
    assert await node.place() is HERE


# The executing node decides -------------------------------------------------------------------


@pytest.mark.parametrize(
    ("node", "call", "refusal"),
    [
        (Node(READY), a_call(), None),
        (Node(BUSY), a_call(), Refusal.BUSY),
        (Node(BUSY), a_call(may_wait=True), None),
        (Node(NO_SLOTS), a_call(may_wait=True), Refusal.BUSY),
        # A call that is sent to wait may start an instance; a call that no other node would accept
        # waits.
        (starter(), a_call(may_wait=True), None),
        (starter(), a_call(), Refusal.BUSY),
        (Node(NO_SLOTS), a_call(may_wait=True, in_any_case=True), None),
        (Node(READY), a_call(version=2), Refusal.VERSION),
        (Node(None), a_call(), Refusal.VERSION),
        (Node(READY, takes=False), a_call(), Refusal.DRAINING),
    ],
)
async def test_a_call_of_another_node(
    node: Node, call: ForwardedCall, refusal: Refusal | None
) -> None:
    assert await node.placement.refusal(call) is refusal


@promise("N96")
@pytest.mark.parametrize(
    ("known", "asked", "heard", "refusal"),
    [
        (1, 2, 2, None),
        (None, 1, 1, None),
        (1, 2, 1, Refusal.VERSION),  # the store does not respond
        (2, 1, 2, Refusal.VERSION),  # the asking node is out of date
    ],
)
async def test_a_node_that_is_asked_for_a_newer_version_catches_up_first(
    known: int | None, asked: int, heard: int, refusal: Refusal | None
) -> None:
    node = Node(None if known is None else replace(READY, version=known))
    caught_up = []

    async def catch_up() -> None:
        node.here = replace(READY, version=heard)
        caught_up.append(True)

    node.placement.catch_up = catch_up
    assert await node.placement.refusal(a_call(version=asked)) is refusal
    assert bool(caught_up) == (known is None or known < asked)
