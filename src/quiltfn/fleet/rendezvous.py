"""Orders nodes by a key, so that all nodes choose the same one (rendezvous hashing)."""

import hashlib
from collections.abc import Iterable


def in_order(key: str, nodes: Iterable[str]) -> list[str]:
    """The nodes, in an order that depends on the key and is the same on all nodes. A node that
    joins or leaves changes the first node of few keys (Thaler and Ravishankar 1998).
    """

    def weight(node: str) -> bytes:
        return hashlib.blake2b(f"{node} {key}".encode(), digest_size=8).digest()

    return sorted(nodes, key=weight, reverse=True)
