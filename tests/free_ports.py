"""Ports for programs that have to be told theirs before they listen."""

import random
import socket
from pathlib import Path

RANGE = Path("/proc/sys/net/ipv4/ip_local_port_range")
_claims: list[socket.socket] = []


def free_port() -> int:
    """A port of 127.0.0.1 that nobody uses, and that is this process's until it ends.

    The kernel gives it to nobody who asks for any port: it is outside of those that it picks from.
    Other tests leave it alone while a socket of this process has its name.
    """
    first, last = map(int, RANGE.read_text().split())
    outside = [*range(10_000, first), *range(last + 1, 65_536)] or range(10_000, 65_536)
    while True:
        port: int = random.choice(outside)
        claim = socket.socket(socket.AF_UNIX)
        try:
            claim.bind(f"\0quiltfn-test-port-{port}")
            with socket.socket() as probe:
                probe.bind(("127.0.0.1", port))
        except OSError:
            claim.close()
        else:
            _claims.append(claim)
            return port
