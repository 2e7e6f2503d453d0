"""A node of a fleet, built from parts that a test provides."""

from functools import partial
from types import SimpleNamespace
from typing import Any

from quiltfn.fleet import all_nodes, forwarding


def fleet_node(**parts: Any) -> Any:
    """A `FleetNode` with the `parts` that the test provides."""
    node = SimpleNamespace(is_alone=False, **parts)
    for answer in (forwarding.elsewhere, all_nodes.asked_of_others, all_nodes.streamed_by_all):
        setattr(node, answer.__name__, partial(answer, node))
    return node
