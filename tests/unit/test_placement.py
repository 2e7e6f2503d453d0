"""Where a call runs, from what this node has and the others have said."""

from random import Random

import msgspec
import pytest

from promises import promise
from quiltfn.base.others import Others
from quiltfn.fleet.placement import Placement
from quiltfn.fleet.routing import RoutingTable
from quiltfn.model.forwarded import ForwardedCall, Refusal
from quiltfn.model.pool_load import PoolLoad
from quiltfn.ports.placement import Destination, ImagePlaces

pytestmark = promise("N45", "N16")

F, V = "f", 1


def load(idle: int = 0, busy: int = 0, waiting: int = 0, slots: int = 2) -> PoolLoad:
    return PoolLoad(F, V, idle, busy, waiting, slots)


class Node:
    """A node with a pool, and what the fleet answers when it asks for one more instance."""

    def __init__(self, here: PoolLoad | None, *, may_start: bool = False, **others: PoolLoad):
        self.here, self.is_granted, self.asked = here, may_start, 0
        self.runs = self.takes = self.starts = True
        self.places: ImagePlaces | None = None
        self.held_by: list[str] = []
        table = RoutingTable(Random(3))
        for name, one in others.items():
            table.reported(name, [one])
        table.retain(others)
        self.table = table
        self.placement = Placement(table, self, Others().hear)

    def load(self, _function_id: str) -> PoolLoad | None:
        return self.here

    def holders(self, _function_id: str) -> list[str]:
        return self.held_by

    def image(self, _function_id: str) -> ImagePlaces | None:
        return self.places

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


@promise("N96")
@pytest.mark.parametrize(
    ("known", "asked", "heard", "refusal"),
    [
        (1, 2, 2, None),
        (None, 1, 1, None),
        (1, 2, 1, Refusal.VERSION),  # the store does not answer
        (2, 1, 2, Refusal.VERSION),  # the node that asks has to catch up
    ],
)
async def test_a_node_that_is_asked_for_a_newer_version_catches_up_first(
    known: int | None, asked: int, heard: int, refusal: Refusal | None
) -> None:
    def pool(version: int) -> PoolLoad:
        return msgspec.structs.replace(load(idle=1), version=version)

    node = Node(None if known is None else pool(known))
    caught_up = []

    async def catch_up() -> None:
        node.here = pool(heard)
        caught_up.append(True)

    node.placement.catch_up = catch_up
    call = msgspec.structs.replace(a_call(), version=asked)
    assert await node.placement.refusal(call) is refusal
    assert bool(caught_up) == (known is None or known < asked)


async def test_an_instance_that_is_ready_here_comes_first() -> None:
    node = Node(load(idle=1), b=load(idle=2))
    assert await node.place() is None
    assert node.asked == 0


async def test_then_one_that_is_ready_elsewhere() -> None:
    node = Node(load(busy=1), may_start=True, b=load(idle=1))
    assert await node.place() == Destination("b", may_wait=False)
    assert node.asked == 0


async def test_then_one_that_may_be_started_here() -> None:
    node = Node(load(slots=0), may_start=True, b=load(busy=2))
    assert await node.place() is None
    assert node.asked == 1


async def test_a_node_that_is_drained_while_it_asks_for_an_instance_sends_the_call_on() -> None:
    node = Node(load(slots=0), may_start=True, b=load(busy=2))

    async def obtain(_: str) -> bool:
        node.runs = False
        return True

    node.obtain = obtain  # type: ignore[method-assign, assignment]
    assert await node.place() == Destination("b", may_wait=True, in_any_case=True)


async def test_then_the_call_waits_at_a_node_that_may_have_instances() -> None:
    node = Node(load(slots=0), b=load(busy=2))
    assert await node.place() == Destination("b", may_wait=True)


@promise("N93")
async def test_a_call_that_is_placed_for_the_last_time_waits_where_an_instance_is_ready() -> None:
    """That may be taken by the time the call comes."""
    node = Node(load(busy=1), b=load(idle=1))
    assert await node.placement.place(F, V, is_last=True) == Destination("b", may_wait=True)


async def test_it_waits_here_where_fewer_wait() -> None:
    assert await Node(load(busy=2), b=load(busy=2, waiting=1)).place() is None
    node = Node(load(busy=2, waiting=2), b=load(busy=2, waiting=1))
    assert await node.place() == Destination("b", may_wait=True)


@promise("N93")
async def test_it_waits_at_a_node_that_has_the_places_though_that_has_not_said_so_yet() -> None:
    """As right after a function was resumed there."""
    node = Node(load(slots=0), b=load(busy=2))
    node.table.reported("b")
    node.held_by = ["b"]
    assert await node.place() == Destination("b", may_wait=True)
    assert await node.place("b") is None
    node.here = load(busy=1, slots=1)
    assert await node.place() is None


async def test_without_another_node_it_waits_here() -> None:
    assert await Node(load(slots=0)).place() is None


async def test_a_node_that_was_tried_is_not_tried_again() -> None:
    node = Node(load(slots=0), b=load(idle=1), c=load(busy=2))
    assert await node.place("b") == Destination("c", may_wait=True)
    assert await node.place("b", "c") is None


async def test_a_function_without_a_pool_here_is_refused_here() -> None:
    """Paused or being deleted: no other node is asked to run it in its place."""
    assert await Node(None, b=load(busy=2)).place() is None


# Where the image is -----------------------------------------------------------------------------


async def test_rather_than_fetch_the_image_a_node_that_has_it_starts_an_instance() -> None:
    node = Node(load(slots=0), may_start=True, b=load(busy=2))
    node.places = ImagePlaces(is_here=False, nodes={"b"})
    assert await node.place() == Destination("b", may_wait=True)
    assert node.asked == 0
    node.places = ImagePlaces(is_here=True, nodes={"b"})
    assert await node.place() is None


async def test_a_node_without_a_pool_yet_may_have_the_image() -> None:
    node = Node(load(slots=0), may_start=True)
    node.table.retain(["b", "c"])
    node.places = ImagePlaces(is_here=False, nodes={"c"})
    assert await node.place() == Destination("c", may_wait=True)
    assert await node.place("c") is None


async def test_where_calls_wait_at_all_that_have_the_image_it_is_fetched() -> None:
    node = Node(load(slots=0), may_start=True, b=load(busy=2, waiting=1), c=load(busy=2, waiting=9))
    node.places = ImagePlaces(is_here=False, nodes={"b", "c"})
    assert await node.place() is None
    assert node.asked == 1


async def test_an_instance_that_is_ready_comes_before_the_image() -> None:
    node = Node(load(idle=1), b=load(busy=1))
    node.places = ImagePlaces(is_here=False, nodes={"b"})
    assert await node.place() is None
    node = Node(load(), may_start=True, b=load(busy=1), c=load(idle=1))
    node.places = ImagePlaces(is_here=False, nodes={"b"})
    assert await node.place() == Destination("c", may_wait=False)


async def test_a_node_that_refused_gets_no_call_before_its_next_report() -> None:
    node = Node(load(slots=0), may_start=True, b=load(busy=1))
    node.places = ImagePlaces(is_here=False, nodes={"b"})
    node.placement.told("b", F, None)
    assert await node.place() is None
    node.table.reported("b", [load(busy=1)])
    assert await node.place() == Destination("b", may_wait=True)


async def test_nodes_that_take_no_calls_do_not_count_though_they_have_the_image() -> None:
    node = Node(load(slots=0), may_start=True, b=load(busy=1))
    node.places = ImagePlaces(is_here=False, nodes={"gone"})
    assert await node.place() is None


async def test_a_call_of_another_version_runs_here_unless_the_node_is_drained() -> None:
    node = Node(None, b=load(idle=3))
    assert await node.placement.place(F, V, names_version=True) is None
    node.runs = False
    expected = Destination("b", may_wait=True, in_any_case=True)
    assert await node.placement.place(F, V, names_version=True) == expected


async def test_a_drained_node_prefers_one_with_the_image() -> None:
    node = Node(load(idle=1))
    node.runs = False
    node.table.retain([f"n{number}" for number in range(20)])
    node.places = ImagePlaces(is_here=True, nodes={"n7"})
    assert await node.place() == Destination("n7", may_wait=True, in_any_case=True)


def a_call(*, version: int = V, may_wait: bool = False) -> ForwardedCall:
    return ForwardedCall(
        function_id=F, invocation_id="i", client="::1", version=version, may_wait=may_wait
    )


@pytest.mark.parametrize(
    ("here", "call", "refusal"),
    [
        (load(idle=1), a_call(), None),
        (load(busy=2), a_call(), Refusal.BUSY),
        (load(busy=2), a_call(may_wait=True), None),
        (load(slots=0), a_call(may_wait=True), Refusal.BUSY),
        (load(idle=1), a_call(version=2), Refusal.VERSION),
        (None, a_call(), Refusal.VERSION),
    ],
)
async def test_the_node_that_is_to_run_a_call_decides(
    here: PoolLoad | None, call: ForwardedCall, refusal: Refusal | None
) -> None:
    assert await Node(here).placement.refusal(call) is refusal


async def test_a_node_that_takes_no_calls_refuses_all() -> None:
    node = Node(load(idle=1))
    node.takes = False
    assert await node.placement.refusal(a_call()) is Refusal.DRAINING


async def test_a_call_may_begin_an_instance_where_it_is_sent_to_wait() -> None:
    node = Node(load(slots=0), may_start=True)
    assert await node.placement.refusal(a_call(may_wait=True)) is None
    assert await node.placement.refusal(a_call()) is Refusal.BUSY


async def test_a_call_that_no_other_node_would_take_waits_even_without_a_slot() -> None:
    call = ForwardedCall(
        function_id=F, invocation_id="i", client="::1", version=V, may_wait=True, in_any_case=True
    )
    assert await Node(load(slots=0)).placement.refusal(call) is None


async def test_a_node_that_runs_no_calls_sends_its_own_to_others() -> None:
    node = Node(load(idle=2), may_start=True, b=load(idle=1))
    node.runs = False
    assert await node.place() == Destination("b", may_wait=True, in_any_case=True)
    node = Node(load(idle=2), may_start=True, b=load(busy=2))
    node.runs = False
    assert await node.place() == Destination("b", may_wait=True, in_any_case=True)
    assert node.asked == 0


async def test_a_node_that_takes_none_from_others_runs_its_own() -> None:
    node = Node(load(idle=1), b=load(idle=2))
    node.takes = False
    assert await node.place() is None
    assert await node.placement.refusal(a_call()) is Refusal.DRAINING


@promise("N72")
async def test_a_node_that_does_not_reach_the_store_goes_on_with_what_it_has() -> None:
    """It may be that the store is away for all, or that only this node does not reach it."""
    node = Node(load(idle=1), b=load(idle=1))
    node.starts = False
    assert await node.place() is None
    node.here = load(busy=1, slots=1)
    assert await node.place() == Destination("b", may_wait=False)
    assert await node.place("b") is None  # it waits for its own instance
    for none in (load(slots=0), None):
        node.here = none
        assert await node.place() == Destination("b", may_wait=True, in_any_case=True)


async def test_it_sends_them_to_a_node_without_instances_too() -> None:
    node = Node(load(idle=2), b=PoolLoad("another", V, slots=1))
    node.runs = False
    assert await node.place() == Destination("b", may_wait=True, in_any_case=True)
    # A node that refused may take it now: there is nobody else.
    assert await node.place("b") == Destination("b", may_wait=True, in_any_case=True)


async def test_a_node_that_could_not_be_reached_is_left_out_until_it_reports() -> None:
    node = Node(load(slots=0), b=load(idle=1))
    node.placement.told("b", F, None)
    assert await node.place() is None


async def test_what_a_node_says_with_an_answer_counts_at_once() -> None:
    node = Node(load(slots=0), b=load(idle=1))
    node.placement.told("b", F, load(busy=2))
    assert await node.place() == Destination("b", may_wait=True)
