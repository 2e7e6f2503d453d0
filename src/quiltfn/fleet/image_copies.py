"""Which nodes have which images, which of them count, and which images lack a copy.

Rule 1: an image that is on a node of the fleet is to be on two, where two are there.
Rule 2: a node that is drained or removed does not count, though others get images from it; one that
leaves or is away for a moment, as for a restart, counts for `patience_s` and is asked to take none.
Rule 3: whoever has an image that lacks a copy asks another node to take one. Who is asked follows
from the names alone, so that several who ask ask the same one.
Rule 4: nothing here waits, reads a clock or asks the store.
"""

from collections import defaultdict
from collections.abc import Collection, Iterable

from quiltfn.model.member import Member, NodeState
from quiltfn.ports.fleet import ImageCopy

COPIES = 2
NOWHERE: frozenset[str] = frozenset()


class ImageNodes:
    """The nodes, as far as images go. `there`: they can be asked; `able`: those of them that are to
    have copies; `removed`: nothing comes back from them.
    """

    def __init__(self, patience_s: float) -> None:
        self._patience_s = patience_s
        self._away_since: dict[str, float] = {}
        self.there = self.able = self.removed = NOWHERE

    def read(self, members: Iterable[Member], now: float) -> None:
        """Takes in all nodes as they are now, in monotonic seconds."""
        there, able, removed, away = set(), set(), set(), {}
        for one in members:
            if not one.is_member:
                continue
            if one.state is NodeState.REMOVED:
                removed.add(one.name)
                continue
            if one.is_there:
                there.add(one.name)
            if one.keeps:
                able.add(one.name)
            elif one.is_to_stay:
                away[one.name] = self._away_since.get(one.name, now)
        self.there, self.able, self.removed = map(frozenset, (there, able, removed))
        self._away_since = away

    def away(self, now: float) -> frozenset[str]:
        """Those that may be back in a moment."""
        recent = (one for one, since in self._away_since.items() if now - since < self._patience_s)
        return frozenset(recent)


class CopyTable:
    """Which node has which images, as the store says."""

    def __init__(self) -> None:
        self._nodes_of: dict[str, frozenset[str]] = {}

    def put(self, copies: Iterable[ImageCopy], digests: Collection[str] | None = None) -> None:
        """What the store has of these images now; None: of all of them."""
        found: defaultdict[str, set[str]] = defaultdict(set)
        for one in copies:
            found[one.digest].add(one.node)
        for digest in list(self._nodes_of) if digests is None else digests:
            self._nodes_of.pop(digest, None)
        self._nodes_of |= {digest: frozenset(nodes) for digest, nodes in found.items()}

    def nodes_of(self, digest: str) -> frozenset[str]:
        """The nodes that have the image, whether they are there or not."""
        return self._nodes_of.get(digest, NOWHERE)

    def only_on(self, node: str, others: Collection[str]) -> frozenset[str]:
        """The images that a node has, and none of some others."""
        having = self._nodes_of.items()
        return frozenset(
            digest for digest, nodes in having if node in nodes and nodes.isdisjoint(others)
        )

    def among(self, nodes: frozenset[str]) -> list[str]:
        """Those of these nodes that have an image."""
        return sorted(nodes & NOWHERE.union(*self._nodes_of.values())) if nodes else []

    def lacking(self, digests: Iterable[str], nodes: ImageNodes, now: float) -> list[str]:
        """Those of some images that are on fewer nodes than they could be."""
        able, away = nodes.able, nodes.away(now)
        wanted = min(COPIES, len(able))
        found = []
        for digest in digests:
            having = self.nodes_of(digest)
            if len(having & able) < wanted and len(having & (able | away)) < COPIES:
                found.append(digest)
        return sorted(found)
