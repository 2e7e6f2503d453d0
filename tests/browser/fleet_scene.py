"""Nodes of a fleet with their own PostgreSQL, for pages that show nodes."""

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import postgresql
from e2e.server import Function, Server, watched
from fleet.nodes import Fleet
from postgresql import PASSWORD

QUICK = "--fleet-beat-s 0.3"
WAITS = "sleep ${QUILT_PAYLOAD:-0}; echo done"
SHOP = {"resize-pictures": 8, "send-invoice": 4, "price-feed": 4, "search-index": 2}


@contextmanager
def fleet_of(directory: Path, names: Sequence[str]) -> Iterator[list[Server]]:
    """Runs nodes with these names. `directory` gets their files."""
    with postgresql.started() as cluster, ExitStack() as stack:
        cluster.create("fleet")

        def another(**more: Any) -> Server:
            return stack.enter_context(watched(**more))

        fleet = Fleet(directory, cluster.tcp_url("fleet", None), another).init(PASSWORD)
        yield [fleet.node(name, QUICK).start() for name in names]


def open_shop(nodes: Sequence[Server], seconds: float) -> None:
    """Deploys the functions of a shop, with instances on all nodes. Some instances are busy for
    this many seconds from now on.
    """
    first, running, made = nodes[0], [], {}
    for number, (name, most) in enumerate(SHOP.items()):
        made[name] = first.deploy(WAITS, name=name, max_instances=most).id
        for at in range(most):
            node = nodes[(at + number) % len(nodes)]
            # Concurrent invocations find no ready instance, so each node starts its own.
            running.append(node.later(Function(node, made[name]).invoke, "1"))
    for future in running:
        future.result()
    for name, busy in (("resize-pictures", 5), ("send-invoice", 2)):
        for at in range(busy):
            node = nodes[at % len(nodes)]
            node.later(Function(node, made[name]).invoke, str(seconds))
