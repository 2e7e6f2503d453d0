"""Network namespaces of sandboxes, created here so that they belong to the host's root.

Processes of the sandbox, even its root, have no capabilities in the namespace. The launcher enters
it briefly within one step of its event loop, and exits if it cannot leave the namespace.
"""

import contextlib
import fcntl
import os
import socket
import struct
from collections.abc import Iterator
from pathlib import Path

from quiltfn.launcher import egress_rules as rules
from quiltfn.launcher import syscalls
from quiltfn.launcher.oci import NO_TIME_WAIT

OWN = "/proc/thread-self/ns/net"
TUN = "/dev/net/tun"
NETLINK_NETFILTER = 12
MTU = 65_520
_TUNSETIFF, _IFF_TAP, _IFF_NO_PI = 0x4004_54CA, 2, 0x1000
_SIOCADDRT, _SIOCSIFFLAGS, _SIOCSIFADDR, _SIOCSIFNETMASK = 0x890B, 0x8914, 0x8916, 0x891C
_SIOCSIFMTU = 0x8922
_IFF_UP = 1
_UP_GATEWAY = 3  # RTF_UP | RTF_GATEWAY


class Netns:
    """A new network namespace with a tap device that is down. Raises OSError."""

    def __init__(self) -> None:
        with _stepping_out():
            syscalls.unshare_network()
            self._namespace = os.open(OWN, os.O_RDONLY | os.O_CLOEXEC)
            try:
                # The socket and the device stay in this namespace when the process leaves it.
                self._netfilter = socket.socket(
                    socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_CLOEXEC, NETLINK_NETFILTER
                )
                self._netfilter.settimeout(1.0)
                self.tap = os.open(TUN, os.O_RDWR | os.O_CLOEXEC)
                request = struct.pack("16sH22x", rules.INTERFACE.encode(), _IFF_TAP | _IFF_NO_PI)
                fcntl.ioctl(self.tap, _TUNSETIFF, request)
            except OSError:
                self.close()
                raise
        self.path = f"/proc/{os.getpid()}/fd/{self._namespace}"

    @contextlib.contextmanager
    def inside(self) -> Iterator[None]:
        """Enters the namespace for a `with` block, to create processes and sockets in it."""
        with _stepping_out():
            syscalls.enter_network(self._namespace)
            yield

    def connect(self, *, v6: bool) -> None:
        """Sets up loopback and the tap device. The rules must be in force. Raises OSError."""
        name = rules.INTERFACE
        with self.inside(), socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as v4_socket:
            _ioctl(v4_socket, _SIOCSIFFLAGS, struct.pack("16sH22x", b"lo", _IFF_UP))
            for number, address in (
                (_SIOCSIFADDR, rules.ADDRESS_V4),
                (_SIOCSIFNETMASK, "255.255.255.0"),
            ):
                request = struct.pack("16s16s8x", name.encode(), _sockaddr(address))
                _ioctl(v4_socket, number, request)
            _ioctl(v4_socket, _SIOCSIFMTU, struct.pack("16si20x", name.encode(), MTU))
            _quiet_v6(name, wanted=v6)
            for key, value in NO_TIME_WAIT.items():
                Path(f"/proc/sys/{key.replace('.', '/')}").write_text(value)
            _ioctl(v4_socket, _SIOCSIFFLAGS, struct.pack("16sH22x", name.encode(), _IFF_UP))
            _ioctl(v4_socket, _SIOCADDRT, _default_route(rules.GATEWAY_V4))
            if v6:
                with socket.socket(socket.AF_INET6, socket.SOCK_DGRAM) as v6_socket:
                    _address_v6(v6_socket, name)

    def blocked(self) -> int:
        """The number of attempts that the rules refused. Raises OSError if there are no rules."""
        self._netfilter.send(rules.counter_request())
        found = rules.counted(self._netfilter.recv(4096))
        if found is None:
            raise OSError("the rules of its network are not in force")
        return found

    def refused(self) -> tuple[rules.Destination, ...]:
        """The destinations of the first refused attempts. Raises OSError."""
        found: list[rules.Destination] = []
        for family in (4, 6):
            self._netfilter.send(rules.elements_request(family))
            is_last = False
            while not is_last:
                some, is_last = rules.destinations(self._netfilter.recv(65_536), family)
                found += some
        return tuple(found)

    def give_tap(self) -> None:
        """Closes the tap device, after another process got its descriptor."""
        if self.tap >= 0:
            os.close(self.tap)
            self.tap = -1

    def close(self) -> None:
        """Closes all descriptors. The kernel removes the namespace after its last process."""
        for name in ("_namespace", "tap"):
            if getattr(self, name, -1) >= 0:
                os.close(getattr(self, name))
                setattr(self, name, -1)
        if hasattr(self, "_netfilter"):
            self._netfilter.close()


@contextlib.contextmanager
def _stepping_out() -> Iterator[None]:
    """Returns to the current namespace after the `with` block, or exits if that fails."""
    own = os.open(OWN, os.O_RDONLY | os.O_CLOEXEC)
    try:
        yield
    finally:
        try:
            syscalls.enter_network(own)
        except OSError as error:
            # Any further step would happen in the wrong namespace.
            raise SystemExit(f"quiltfn: cannot leave a sandbox's network: {error}") from None
        finally:
            os.close(own)


def _ioctl(through: socket.socket, number: int, request: bytes) -> None:
    fcntl.ioctl(through.fileno(), number, request)


def _sockaddr(address: str) -> bytes:
    return struct.pack("=HH4s8x", socket.AF_INET, 0, socket.inet_pton(socket.AF_INET, address))


def _default_route(gateway: str) -> bytes:
    """Packs struct rtentry of linux/route.h."""
    anywhere = _sockaddr("0.0.0.0")
    return struct.pack(
        "@L16s16s16sHhLBB3hhPLLH",
        *(0, anywhere, _sockaddr(gateway), anywhere, _UP_GATEWAY),
        *(0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0),
    )


def _quiet_v6(name: str, *, wanted: bool) -> None:
    """Turns off router solicitations and duplicate detection, and IPv6 itself unless wanted."""
    settings = {"accept_ra": "0", "accept_dad": "0", "router_solicitations": "0"}
    settings |= {"disable_ipv6": "0" if wanted else "1"}
    for key, value in settings.items():
        with contextlib.suppress(FileNotFoundError):  # a kernel without IPv6
            Path(f"/proc/sys/net/ipv6/conf/{name}/{key}").write_text(value)


def _address_v6(through: socket.socket, name: str) -> None:
    """Sets address and route, by struct in6_ifreq and in6_rtmsg of linux/ipv6.h, ipv6_route.h."""
    index = socket.if_nametoindex(name)
    own, gateway = (
        socket.inet_pton(socket.AF_INET6, one) for one in (rules.ADDRESS_V6, rules.GATEWAY_V6)
    )
    _ioctl(through, _SIOCSIFADDR, struct.pack("@16sIi", own, 64, index))
    anywhere = bytes(16)
    route = struct.pack(
        "@16s16s16sIHHILIi", anywhere, anywhere, gateway, *(0, 0, 0, 1, 0, _UP_GATEWAY, index)
    )
    _ioctl(through, _SIOCADDRT, route)
