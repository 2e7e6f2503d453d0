"""Which node gets a call, given the reports of the others."""

from collections import Counter
from random import Random

from hypothesis import given
from hypothesis import strategies as st

from quiltfn.fleet.routing import RoutingTable
from quiltfn.model.pool_load import PoolLoad

F, V = "f", 1


def pool(
    idle: int = 0, busy: int = 0, waiting: int = 0, *, slots: int = 4, of: str = F
) -> PoolLoad:
    return PoolLoad(of, V, idle, busy, waiting, slots)


def table(**pools: PoolLoad) -> RoutingTable:
    made = RoutingTable(Random(7))
    for node, load in pools.items():
        made.reported(node, [load])
    return made


def test_another_version_or_function_is_not_taken_for_it() -> None:
    made = table(a=pool(idle=1))
    assert made.idle_node(F, 2) is None
    assert made.busy_node(F, 2) is None
    assert made.idle_node("g", V) is None


def test_a_node_with_no_slot_gets_no_waiting_call() -> None:
    made = table(a=pool(waiting=1, slots=0), b=pool(busy=4, waiting=9))
    assert {made.busy_node(F, V) for _ in range(20)} == {"b"}


def test_an_instance_is_given_once_until_the_next_report() -> None:
    made = table(a=pool(idle=2))
    for _ in range(2):
        assert made.idle_node(F, V) == "a"
        made.sent("a", F)
    assert made.idle_node(F, V) is None
    assert made.busy_node(F, V) == "a"
    made.reported("a", [pool(idle=1)])
    assert made.idle_node(F, V) == "a"


def test_calls_that_wait_spread_over_the_nodes_between_reports() -> None:
    made, sent = table(a=pool(busy=4), b=pool(busy=4), c=pool(busy=4)), Counter[str]()
    for _ in range(300):
        node = made.busy_node(F, V)
        assert node is not None
        made.sent(node, F)
        sent[node] += 1
    assert min(sent.values()) > 80


def test_nodes_that_are_gone_are_forgotten() -> None:
    made = table(a=pool(idle=1), b=pool(idle=1))
    made.retain(["b"])
    assert {made.idle_node(F, V) for _ in range(20)} == {"b"}
    made.retain([])
    assert made.idle_node(F, V) is None


def test_a_call_that_goes_to_an_unknown_node_changes_nothing() -> None:
    made = table(a=pool(idle=1))
    made.sent("b", F)
    made.refused("b", F)
    assert made.idle_node(F, V) == "a"


loads = st.builds(pool, *[st.integers(0, 3)] * 3, slots=st.integers(0, 4), of=st.sampled_from("fg"))
steps = st.lists(
    st.tuples(
        st.sampled_from(["report", "sent", "update", "refused", "gone"]),
        st.sampled_from("abc"),
        st.lists(loads, max_size=2, unique_by=lambda load: load.function_id),
    ),
    max_size=30,
)


@given(steps)
def test_what_is_chosen_is_what_was_reported(taken: list[tuple[str, str, list[PoolLoad]]]) -> None:
    """The table must agree with the simplest model: a dictionary of reports by node."""
    made, known = RoutingTable(Random(1)), dict[str, dict[str, PoolLoad]]()
    ever = dict[str, set[str]]()  # by node: the functions of its last report
    for step, node, reported in taken:
        if step == "report":
            made.reported(node, reported)
            known[node] = {one.function_id: one for one in reported}
            ever[node] = set(known[node])
        elif step == "gone":
            made.retain(known.keys() - {node})
            known.pop(node, None)
            ever.pop(node, None)
        elif step == "refused":
            made.refused(node, F)
            known.get(node, {}).pop(F, None)
        elif step == "update":
            for newer in reported:
                made.update(node, newer)
                if newer.function_id in ever.get(node, ()):
                    known[node][newer.function_id] = newer
        elif (current := known.get(node, {}).get(F)) is not None:
            made.sent(node, F)
            known[node][F] = pool(
                *(current.idle - 1, current.busy + 1, current.waiting)
                if current.idle
                else (current.idle, current.busy, current.waiting + 1),
                slots=current.slots,
            )
        for function_id in "fg":
            holders = {
                node: pools[function_id] for node, pools in known.items() if function_id in pools
            }
            able = {node: one for node, one in holders.items() if one.slots}
            idle = {node for node, one in able.items() if one.idle}
            assert (made.idle_node(function_id, V) in idle) == bool(idle)
            assert (made.busy_node(function_id, V) in able) == bool(able)
