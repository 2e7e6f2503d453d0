"""Network namespaces that simulate a host and the networks around it.

`Lab.host` is where a server under test runs; its only link leads to `Lab.world`, in which one
process listens on every address: public ones, private networks, cloud metadata, and a resolver. A
second process, in the host's namespace, simulates other services of the host. Run as a script, this
file is such a process.
"""

from __future__ import annotations

import contextlib
import os
import secrets
import selectors
import socket
import struct
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from quiltfn.launcher import syscalls

PORT, NAME, OWN = 7777, "public.test", "/proc/thread-self/ns/net"
HOST_V4 = ("8.8.4.10", "192.168.77.10")
HOST_V6 = ("2001:4860:4860::10", "fd12:3456::10")
HOST_RANGE = "11.9.0.7"  # an address in a range that a route assigns to the host
HOST_LATER = "8.8.4.77"
WORLD_V4, WORLD_V6 = "8.8.4.1", ("2001:4860:4860::1", "fd12:3456::1")
PUBLIC = ("9.9.9.9", "2606:4700::1111")
RESOLVER = "10.9.0.53"
FORBIDDEN = (
    "10.1.2.3",
    "172.20.0.5",
    "192.168.5.5",
    "100.64.1.1",
    "100.100.100.200",
    "169.254.169.254",
    "168.63.129.16",
    "192.0.0.192",
    "192.0.2.5",
    "198.18.0.1",
    "203.0.113.5",
    "240.0.0.5",
    "fd00:ec2::254",
    "fc00::5",
    "64:ff9b::a01:203",
    "2002:a01:203::1",
    "2001::5",
    "2001:db8::5",
)


@dataclass(frozen=True)
class Lab:
    """The names of the namespaces. `log`: has a line for each address that was reached."""

    host: str
    world: str
    log: Path

    def reached(self) -> set[str]:
        return set(self.log.read_text().split())


@contextlib.contextmanager
def lab(directory: Path) -> Iterator[Lab]:
    """Creates the namespaces, and puts the calling thread into that of the host. Removes everything
    at the end of the block.
    """
    mark = secrets.token_hex(3)
    made = Lab(f"qh{mark}", f"qw{mark}", directory / "reached")
    made.log.touch()
    listeners: list[subprocess.Popen[bytes]] = []
    try:
        for name in (made.host, made.world):
            ip("netns", "add", name)
        _connect(made)
        with inside(made.world):
            listeners.append(_listener(made.log))
        with inside(made.host):
            listeners.append(_listener(made.log))
            yield made
    finally:
        for process in listeners:
            process.kill()
            process.wait()
            assert process.stdout is not None
            process.stdout.close()
        for name in (made.host, made.world):
            subprocess.run(["ip", "netns", "delete", name], check=False)


@contextlib.contextmanager
def inside(name: str) -> Iterator[None]:
    """During the block, puts the calling thread and the processes that it starts into the
    namespace.
    """
    own, there = (os.open(path, os.O_RDONLY) for path in (OWN, f"/run/netns/{name}"))
    try:
        syscalls.enter_network(there)
        yield
    finally:
        syscalls.enter_network(own)
        os.close(own)
        os.close(there)


def ip(*arguments: str) -> None:
    subprocess.run(["ip", *arguments], check=True, capture_output=True)


def _connect(made: Lab) -> None:
    host, world = ("-n", made.host), ("-n", made.world)
    ip(*host, "link", "add", "h0", "type", "veth", "peer", "name", "w0", "netns", made.world)
    for where in (host, world):
        ip(*where, "link", "set", "lo", "up")
    for address in HOST_V4:
        ip(*host, "address", "add", f"{address}/24", "dev", "h0")
    for address in HOST_V6:
        ip(*host, "address", "add", f"{address}/64", "dev", "h0", "nodad")
    ip(*host, "route", "add", "local", "11.9.0.0/24", "dev", "lo")
    ip(*world, "address", "add", f"{WORLD_V4}/24", "dev", "w0")
    for address in WORLD_V6:
        ip(*world, "address", "add", f"{address}/64", "dev", "w0", "nodad")
    for address in (*PUBLIC, *FORBIDDEN, RESOLVER):
        if ":" in address:
            ip(*world, "address", "add", f"{address}/128", "dev", "w0", "nodad")
        else:
            ip(*world, "address", "add", f"{address}/32", "dev", "w0")
    for name, device in ((made.host, "h0"), (made.world, "w0")):
        with inside(name):
            Path(f"/proc/sys/net/ipv6/conf/{device}/accept_dad").write_text("0")
        ip("-n", name, "link", "set", device, "up")
    ip(*host, "route", "add", "default", "via", WORLD_V4)
    ip(*host, "-6", "route", "add", "default", "via", WORLD_V6[0])


def _listener(log: Path) -> subprocess.Popen[bytes]:
    process = subprocess.Popen(
        [sys.executable, __file__, str(log)], stdout=subprocess.PIPE, start_new_session=True
    )
    assert process.stdout is not None
    assert process.stdout.readline() == b"ready\n"
    return process


def answer_to(question: bytes) -> bytes:
    """A DNS response: every name has the public server's address, IPv4 or IPv6 as requested."""
    end = question.index(b"\0", 12) + 5
    kind = int.from_bytes(question[end - 4 : end - 2], "big")
    family, address = (socket.AF_INET, PUBLIC[0]) if kind == 1 else (socket.AF_INET6, PUBLIC[1])
    data = socket.inet_pton(family, address)
    head = question[:2] + struct.pack(">HHHHH", 0x8180, 1, 1, 0, 0)
    return head + question[12:end] + struct.pack(">HHHIH", 0xC00C, kind, 1, 60, len(data)) + data


def main(log: str) -> None:
    """Responds on every address of this namespace, and logs the requested address."""
    ready = selectors.DefaultSelector()

    def note(address: str) -> None:
        with open(log, "a") as file:
            file.write(f"{address.removeprefix('::ffff:')}\n")

    for port in (PORT, 53):
        stream = socket.create_server(
            ("::", port), family=socket.AF_INET6, dualstack_ipv6=True, backlog=64
        )
        ready.register(stream, selectors.EVENT_READ, None)
        packets = socket.socket(socket.AF_INET6, socket.SOCK_DGRAM)
        packets.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
        packets.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_RECVPKTINFO, 1)
        packets.bind(("::", port))
        ready.register(packets, selectors.EVENT_READ, port)
    print("ready", flush=True)
    while True:
        for key, _ in ready.select():
            sock = key.fileobj
            assert isinstance(sock, socket.socket)
            if key.data is None:
                connection, _ = sock.accept()
                with connection, contextlib.suppress(OSError):
                    note(connection.getsockname()[0])
                    connection.sendall(b"here")
                continue
            data, extra, _, sender = sock.recvmsg(2048, 256)
            arrived = extra[0][2][:16]
            note(socket.inet_ntop(socket.AF_INET6, arrived))
            reply = answer_to(data) if key.data == 53 else b"here"
            # Sent from the requested address, since the client would reject other responses.
            with contextlib.suppress(OSError):
                sock.sendmsg([reply], [(extra[0][0], extra[0][1], arrived + bytes(4))], 0, sender)


if __name__ == "__main__":
    main(sys.argv[1])
