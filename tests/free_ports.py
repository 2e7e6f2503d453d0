"""Ports for programs that need to know their port before they listen."""

import random
import socket
from pathlib import Path

RANGE = Path("/proc/sys/net/ipv4/ip_local_port_range")
_claims: list[socket.socket] = []


def free_port() -> int:
    """A port of 127.0.0.1 that is unused, and reserved for this process until it ends.

    The port is outside of the range from which the kernel takes ports for programs that request any
    port. Other tests avoid it while a socket of this process has its name.
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
