"""Decides which nodes' images count as copies, and which images lack a copy.

Rule 1: each image must be on two nodes, if two are present.
Rule 2: a drained or removed node does not count, though others fetch images from a drained one; a
node that stops or is briefly away, as for a restart, counts for `patience_s`, but is not asked to
take copies.
Rule 3: a node with an image that lacks a copy asks another node to take one. The names alone
determine which node is asked, so that several nodes ask the same one.
Rule 4: this module does not wait, read a clock or query the store.
"""

from collections import defaultdict
from collections.abc import Collection, Iterable

from quiltfn.model.member import Member, NodeState
from quiltfn.ports.fleet import ImageCopy

COPIES = 2
NOWHERE: frozenset[str] = frozenset()


class ImageNodes:
    """The nodes' states, as far as images need them. `there`: reachable nodes; `able`: reachable
    nodes that may be asked to take copies; `removed`: nodes that never return.
    """

    def __init__(self, patience_s: float) -> None:
        self._patience_s = patience_s
        self._away_since: dict[str, float] = {}
        self.there = self.able = self.removed = NOWHERE

    def read(self, members: Iterable[Member], now: float) -> None:
        """Apply the present states of all nodes. `now`: monotonic seconds."""
        there, able, removed, away = set(), set(), set(), {}
        for member in members:
            if not member.is_member:
                continue
            if member.state is NodeState.REMOVED:
                removed.add(member.name)
                continue
            if member.is_there:
                there.add(member.name)
            if member.keeps:
                able.add(member.name)
            elif member.is_to_stay:
                away[member.name] = self._away_since.get(member.name, now)
        self.there, self.able, self.removed = map(frozenset, (there, able, removed))
        self._away_since = away

    def away(self, now: float) -> frozenset[str]:
        """The nodes that have been away for less than `patience_s`."""
        recent = (one for one, since in self._away_since.items() if now - since < self._patience_s)
        return frozenset(recent)


class CopyTable:
    """The nodes that have each image, according to the store."""

    def __init__(self) -> None:
        self._nodes_of: dict[str, frozenset[str]] = {}

    def put(self, copies: Iterable[ImageCopy], digests: Collection[str] | None = None) -> None:
        """Apply the store's present rows of these images; None: of all of them."""
        found: defaultdict[str, set[str]] = defaultdict(set)
        for copy in copies:
            found[copy.digest].add(copy.node)
        for digest in list(self._nodes_of) if digests is None else digests:
            self._nodes_of.pop(digest, None)
        self._nodes_of |= {digest: frozenset(nodes) for digest, nodes in found.items()}

    def nodes_of(self, digest: str) -> frozenset[str]:
        """The nodes that have the image, whether they are present or not."""
        return self._nodes_of.get(digest, NOWHERE)

    def only_on(self, node: str, others: Collection[str]) -> frozenset[str]:
        """The images that a node has, and that none of these other nodes has."""
        having = self._nodes_of.items()
        return frozenset(
            digest for digest, nodes in having if node in nodes and nodes.isdisjoint(others)
        )

    def among(self, nodes: frozenset[str]) -> list[str]:
        """Those of these nodes that have any image."""
        return sorted(nodes & NOWHERE.union(*self._nodes_of.values())) if nodes else []

    def lacking(self, digests: Iterable[str], nodes: ImageNodes, now: float) -> list[str]:
        """Those of these images that are on fewer nodes than possible."""
        able, away = nodes.able, nodes.away(now)
        wanted = min(COPIES, len(able))
        found = []
        for digest in digests:
            having = self.nodes_of(digest)
            if len(having & able) < wanted and len(having & (able | away)) < COPIES:
                found.append(digest)
        return sorted(found)
