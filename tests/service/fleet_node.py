"""A node of a fleet, made of the parts that a test names."""

from functools import partial
from types import SimpleNamespace
from typing import Any

from quiltfn.fleet import all_nodes, forwarding


def fleet_node(**parts: Any) -> Any:
    """`FleetNode` over the `parts` that the test names."""
    node = SimpleNamespace(is_alone=False, **parts)
    for answer in (forwarding.elsewhere, all_nodes.asked_of_others, all_nodes.streamed_by_all):
        setattr(node, answer.__name__, partial(answer, node))
    return node
