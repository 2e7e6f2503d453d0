"""In which order nodes are asked for something of which all of them are to think the same."""

import hashlib
from collections.abc import Iterable


def in_order(key: str, nodes: Iterable[str]) -> list[str]:
    """The nodes in an order of this key: the same one for everybody. A node that comes or goes
    changes who is first for few keys (rendezvous hashing, Thaler and Ravishankar 1998).
    """

    def weight(node: str) -> bytes:
        return hashlib.blake2b(f"{node} {key}".encode(), digest_size=8).digest()

    return sorted(nodes, key=weight, reverse=True)
