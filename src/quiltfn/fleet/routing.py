"""Chooses the node for an invocation without a ready instance here, from the other nodes' reports.

Reports are some seconds old, so every choice is a guess, and the chosen node decides. Of two nodes
picked at random, the less loaded one is chosen: if every node chose the best of all, they would
send all invocations to the same one until the next report.
"""

from collections import defaultdict
from collections.abc import Collection, Iterable, Mapping, Sequence
from random import Random

import msgspec

from quiltfn.model.pool_load import PoolLoad

NO_POOLS: Mapping[str, PoolLoad] = {}


class RoutingTable:
    """The other nodes' last reports, by function. Nodes that are gone or refuse invocations are
    left out by callers.
    """

    def __init__(self, dice: Random | None = None) -> None:
        self._dice = dice or Random()
        self._nodes: Sequence[str] = ()
        self._pools_of: dict[str, Mapping[str, PoolLoad]] = {}
        # By function: the nodes that may have instances of it, and those of them with idle ones.
        self._holders: defaultdict[str, dict[str, PoolLoad]] = defaultdict(dict)
        self._idle: defaultdict[str, dict[str, PoolLoad]] = defaultdict(dict)
        # By node: the functions that it has refused to invoke since its last report.
        self._refused: defaultdict[str, set[str]] = defaultdict(set)

    def reported(self, node: str, loads: Iterable[PoolLoad] = ()) -> None:
        """Replace a node's last report with this one. Without pools: the node may be gone."""
        pools = {one.function_id: one for one in loads}
        self._refused.pop(node, None)
        for function_id in self._pools_of.pop(node, NO_POOLS).keys() - pools.keys():
            self._put(function_id, node, None)
        for function_id, pool in pools.items():
            self._put(function_id, node, pool)
        if pools:
            self._pools_of[node] = pools

    def retain(self, nodes: Collection[str]) -> None:
        """Keep these nodes, which accept invocations, and forget all others."""
        self._nodes = list(nodes)
        for gone in self._pools_of.keys() - set(nodes):
            self.reported(gone)

    def sent(self, node: str, function_id: str) -> None:
        """Note that the node gets an invocation, and has one instance less for others."""
        pool = self.load(node, function_id)
        if pool is None:
            return
        if pool.idle:
            pool = msgspec.structs.replace(pool, idle=pool.idle - 1, busy=pool.busy + 1)
        else:
            pool = msgspec.structs.replace(pool, waiting=pool.waiting + 1)
        self._put(function_id, node, pool)

    def update(self, node: str, pool: PoolLoad) -> None:
        """Apply the load of a pool from the node's response to an invocation."""
        if pool.function_id in self._pools_of.get(node, NO_POOLS):
            self._put(pool.function_id, node, pool)

    def load(self, node: str, function_id: str) -> PoolLoad | None:
        """The known load of the function's pool on a node."""
        return self._holders.get(function_id, NO_POOLS).get(node)

    def refused(self, node: str, function_id: str) -> None:
        """Note that the node refuses the function's invocations or is unreachable: until its next
        report, it counts as a node without instances of the function.
        """
        self._put(function_id, node, None)
        self._refused[node].add(function_id)

    def idle_node(self, function_id: str, version: int, tried: Collection[str] = ()) -> str | None:
        """A node that has a ready instance of the version, according to the reports, except those
        that were tried.
        """
        return self._less_loaded(self._idle.get(function_id, NO_POOLS), version, tried)

    def busy_node(self, function_id: str, version: int, tried: Collection[str] = ()) -> str | None:
        """A node that may have instances of the version, for an invocation that has to wait."""
        return self._less_loaded(self._holders.get(function_id, NO_POOLS), version, tried)

    def any_node(
        self, tried: Collection[str] = (), among: Collection[str] | None = None
    ) -> str | None:
        """A random node that accepts invocations, whatever its load. `among`: the candidates."""
        able = [one for one in self._nodes if one not in tried and (among is None or one in among)]
        return self._dice.choice(able) if able else None

    def unhurried_node(
        self, function_id: str, among: Collection[str], tried: Collection[str] = ()
    ) -> str | None:
        """One of these nodes, which accepts invocations and at which none of the function waits,
        according to the reports. The node may have no instance yet.
        """
        waiting = {
            node for node, pool in self._holders.get(function_id, NO_POOLS).items() if pool.waiting
        }
        refusing = {node for node in among if function_id in self._refused.get(node, ())}
        return self.any_node({*tried, *waiting, *refusing}, among)

    def _less_loaded(
        self, nodes: Mapping[str, PoolLoad], version: int, tried: Collection[str]
    ) -> str | None:
        """Of two random nodes, the one with fewer invocations for each instance."""
        able = [
            node
            for node, pool in nodes.items()
            if pool.slots and pool.version == version and node not in tried
        ]
        if len(able) < 2:
            return able[0] if able else None
        first = int(self._dice.random() * len(able))
        other = int(self._dice.random() * (len(able) - 1))
        other += other >= first
        candidate, another = able[first], able[other]
        return candidate if nodes[candidate].per_slot <= nodes[another].per_slot else another

    def _put(self, function_id: str, node: str, pool: PoolLoad | None) -> None:
        idle = pool if pool is not None and pool.idle else None
        for table, known in ((self._holders, pool), (self._idle, idle)):
            if known is not None:
                table[function_id][node] = known
            elif function_id in table:
                table[function_id].pop(node, None)
                if not table[function_id]:
                    del table[function_id]
