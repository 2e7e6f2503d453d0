"""Nodes agree on an order without asking each other."""

from collections import Counter

from quiltfn.fleet.rendezvous import in_order

NODES = [f"node-{number}" for number in range(5)]
KEYS = [f"function-{number}" for number in range(1000)]


def test_everybody_finds_the_same_order_and_keys_are_spread_evenly() -> None:
    first = Counter(in_order(one, NODES)[0] for one in KEYS)
    assert min(first.values()) > 120
    assert all(in_order(one, NODES) == in_order(one, reversed(NODES)) for one in KEYS)
    assert in_order("x", []) == []


def test_without_one_node_the_others_keep_their_order() -> None:
    for key in KEYS:
        assert [name for name in in_order(key, NODES) if name != NODES[-1]] == in_order(
            key, NODES[:-1]
        )
