"""Routing in a fleet by simulation: the server's own routing table on simulated nodes, with reports
as old as they are in a real one. It needs no server and no database.

A few of many nodes get all calls, and send each to a node that has an instance. A node without a
free instance refuses the call, as real ones do, and another node is tried.
"""

from __future__ import annotations

import heapq
import statistics
import time
from collections import deque
from dataclasses import dataclass, field
from random import Random

import harness
from quiltfn.fleet.routing import RoutingTable
from quiltfn.model.pool_load import PoolLoad

NODES, ASKING, FUNCTIONS, INSTANCES = 1000, 20, 100, 40
REPORT_S, HOP_S, CALL_S, TRIES = 2.0, 0.0003, 0.05, 3
VERSION = 1


@dataclass
class Pool:
    """One function's instances on a node. `slots`: their number; `busy`: those that have a call;
    `waiting`: calls that wait.
    """

    slots: int
    busy: int = 0
    waiting: deque[int] = field(default_factory=deque)  # the nodes that asked
    calls: int = 0


@dataclass
class Fleet:
    """All pools, and what became of the calls."""

    pools: dict[tuple[int, int], Pool]
    tables: list[RoutingTable]
    decisions: int = 0
    deciding_s: float = 0.0
    refused: int = 0
    waited: int = 0
    calls: int = 0
    reports: int = 0
    reporting_s: float = 0.0
    events: list[tuple[float, int, str, int, int, int]] = field(default_factory=list)
    number: int = 0

    def later(self, at: float, kind: str, node: int = 0, function: int = 0, asker: int = 0) -> None:
        self.number += 1
        heapq.heappush(self.events, (at, self.number, kind, node, function, asker))


def main() -> None:
    options = harness.arguments(
        "routing",
        nodes=(NODES, "nodes of the fleet"),
        asking=(ASKING, "nodes that clients call"),
        load=(0.6, "part of all instances that has a call"),
    )
    fleet = simulated(options.nodes, options.asking, options.load, options.seconds * 5.0)
    figures = {
        "nodes": options.nodes,
        "decisions_per_s": fleet.decisions / fleet.deciding_s,
        "reports_per_s": fleet.reports / fleet.reporting_s,
        "refused": fleet.refused / fleet.calls,
        "waited": fleet.waited / fleet.calls,
        "fairness": fairness(fleet),
    }
    for name, value in figures.items():
        print(f"{name:>16} {value:,.3f}")
    harness.save("routing", figures)


def simulated(nodes: int, asking: int, load: float, seconds: float) -> Fleet:
    """The fleet after `seconds` of simulated time."""
    dice = Random(17)
    pools = {
        (node, function): Pool(slots=1)
        for function in range(FUNCTIONS)
        for node in dice.sample(range(nodes), min(INSTANCES, nodes))
    }
    fleet = Fleet(pools, [RoutingTable(Random(number)) for number in range(asking)])
    rate = load * len(pools) / CALL_S
    for node in range(nodes):
        fleet.later(dice.random() * REPORT_S, "report", node)
    fleet.later(REPORT_S, "call")
    while fleet.events and fleet.events[0][0] < REPORT_S + seconds:
        now, _, kind, node, function, asker = heapq.heappop(fleet.events)
        if kind == "call":
            arrive(fleet, now, dice.randrange(asking), dice.randrange(FUNCTIONS), dice)
            fleet.later(now + dice.expovariate(rate), "call")
        elif kind == "end":
            end(fleet, now, node, function, asker, dice)
        else:
            report(fleet, node)
            fleet.later(now + REPORT_S, "report", node)
    return fleet


def arrive(fleet: Fleet, now: float, asker: int, function: int, dice: Random) -> None:
    """A call from a client: tried at nodes that should have an idle instance; then it waits at a
    node.
    """
    fleet.calls += 1
    table, name = fleet.tables[asker], str(function)
    for _ in range(TRIES):
        node = decide(fleet, table, name, is_idle=True)
        if node is None:
            break
        now += HOP_S
        pool = fleet.pools[int(node), function]
        if pool.busy < pool.slots:
            return start(fleet, now, int(node), function, asker, dice)
        fleet.refused += 1
        table.update(node, said_of(function, pool))
    node = decide(fleet, table, name, is_idle=False)
    if node is None:  # every node has refused: one of them is tried again
        node = str(dice.choice([one for one, of in fleet.pools if of == function]))
    pool = fleet.pools[int(node), function]
    if pool.busy < pool.slots:
        return start(fleet, now + HOP_S, int(node), function, asker, dice)
    fleet.waited += 1
    pool.waiting.append(asker)
    return None


def decide(fleet: Fleet, table: RoutingTable, function: str, *, is_idle: bool) -> str | None:
    """One decision, whose duration is added to the total."""
    begun = time.perf_counter()
    choose = table.idle_node if is_idle else table.busy_node
    node = choose(function, VERSION)
    if node is not None:
        table.sent(node, function)
    fleet.deciding_s += time.perf_counter() - begun
    fleet.decisions += 1
    return node


def start(fleet: Fleet, now: float, node: int, function: int, asker: int, dice: Random) -> None:
    pool = fleet.pools[node, function]
    pool.busy += 1
    pool.calls += 1
    fleet.later(now + dice.expovariate(1 / CALL_S), "end", node, function, asker)


def end(fleet: Fleet, now: float, node: int, function: int, asker: int, dice: Random) -> None:
    pool = fleet.pools[node, function]
    pool.busy -= 1
    if pool.waiting:
        start(fleet, now, node, function, pool.waiting.popleft(), dice)
    fleet.tables[asker].update(str(node), said_of(function, pool))


def said_of(function: int, pool: Pool) -> PoolLoad:
    return PoolLoad(
        function_id=str(function),
        version=VERSION,
        idle=pool.slots - pool.busy,
        busy=pool.busy,
        waiting=len(pool.waiting),
        slots=pool.slots,
    )


def report(fleet: Fleet, node: int) -> None:
    """All nodes that clients call get the report of this node."""
    said = [
        said_of(function, pool)
        for function in range(FUNCTIONS)
        if (pool := fleet.pools.get((node, function))) is not None
    ]
    begun = time.perf_counter()
    for table in fleet.tables:
        table.reported(str(node), said)
    fleet.reporting_s += time.perf_counter() - begun
    fleet.reports += len(fleet.tables)


def fairness(fleet: Fleet) -> float:
    """Jain's index of calls over the instances of each function; 1: all have as many."""
    found = []
    for function in range(FUNCTIONS):
        calls = [pool.calls for (_, of), pool in fleet.pools.items() if of == function]
        if sum(calls):
            found.append(sum(calls) ** 2 / (len(calls) * sum(one * one for one in calls)))
    return statistics.mean(found)


if __name__ == "__main__":
    main()
