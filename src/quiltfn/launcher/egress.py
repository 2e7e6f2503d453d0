"""Networks of sandboxes with egress: rules, a tap device, and an egress proxy.

The egress proxy is slirp4netns, one process for each sandbox. It needs only the namespace's tap
device, so it runs unprivileged: with its own uid, no capabilities, a control group with limits, and
the skeleton of sandboxes (`host_image.py`) as its root directory. A handler that took the proxy
over could open sockets like an unprivileged user. Packets first pass the rules (`egress_rules.py`),
which limit what a handler can reach.
"""

import contextlib
import os
import resource
import select
import selectors
import socket
import time
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

from quiltfn.base.immutable import ByKeywords
from quiltfn.launcher import confine, syscalls
from quiltfn.launcher import egress_rules as rules
from quiltfn.launcher.cgroups import Cgroups, Limits
from quiltfn.launcher.children import Children
from quiltfn.launcher.jobs import cannot_start
from quiltfn.launcher.netns import MTU, Netns
from quiltfn.launcher.signals import SETTABLE
from quiltfn.launcher.state import UIDS_PER_SANDBOX, ServerState

NFT, SLIRP = "/usr/sbin/nft", "/usr/bin/slirp4netns"
MISSING = "network: egress needs {}: apt install nftables slirp4netns"
NFT_TIMEOUT_S, READY_TIMEOUT_S = 5.0, 5.0
SUFFIX = "-egress-proxy"
PROXY_MEMORY_MIB = 64
PROXY_RLIMITS = {resource.RLIMIT_NOFILE: 4096, resource.RLIMIT_CORE: 0}
ADDRESS_GROUPS = 0x10 | 0x100  # RTMGRP_IPV4_IFADDR, RTMGRP_IPV6_IFADDR
RESOLV_CONF = Path("/etc/resolv.conf")
# Destinations that every sandbox's network must refuse; tested once at start.
TRIED = (("169.254.169.254", 80), ("fd00:ec2::254", 80), (rules.GATEWAY_V4, 80))


# The number of refused attempts, and the destinations of the first ones.
Blocked = tuple[int, tuple[rules.Destination, ...]]
NOTHING_BLOCKED: Blocked = (0, ())


class Seen(NamedTuple):
    """The host's network at the creation of a sandbox. `resolv_conf`: the file for the proxy."""

    addresses: set[str]
    resolv_conf: str
    v6: bool

    @property
    def resolvers(self) -> list[str]:
        return rules.resolvers_of(self.resolv_conf, v6=self.v6)


class EgressProxy(ByKeywords):
    """The network of one sandbox. `path`: its namespace; `resolv_conf`: the file in the sandbox."""

    name: str
    path: str
    resolv_conf: Path
    _netns: Netns
    _denied: set[str]
    _ready: int
    _kill: Callable[[], None]
    _on_lost: Callable[[], None]
    is_alive: bool = True
    _on_gone: list[Callable[[], None]]
    _last: Blocked = NOTHING_BLOCKED

    def end(self) -> None:
        """Kills the proxy's process. `Egress.close` is still needed."""
        if self.is_alive:
            self._kill()

    def blocked(self) -> int:
        """How many attempts the rules have refused so far."""
        try:
            return self._netns.blocked()
        except OSError:  # the namespace was closed
            return 0

    def counted(self) -> Blocked:
        """The number of refused attempts, and the destinations of the first ones."""
        blocked = self.blocked()
        if blocked != self._last[0]:
            with contextlib.suppress(OSError):
                self._last = blocked, self._netns.refused()
        return blocked, self._last[1]


Opened = Callable[[EgressProxy | str], None]


class Egress:
    """Opens and closes networks. Every result comes by callback from the event loop."""

    def __init__(
        self,
        state: ServerState,
        cgroups: Cgroups,
        children: Children,
        *,
        dns: str = "",
    ) -> None:
        self._state, self._cgroups, self._children, self._dns = state, cgroups, children, dns
        self._directory = state.path / "network"
        self._directory.mkdir(mode=0o755)
        self._loading: dict[int, float] = {}  # nft processes and their deadlines
        self._open: list[EgressProxy] = []
        self._changes = _address_changes()
        children.selector.register(self._changes, selectors.EVENT_READ, self._addresses_changed)
        missing = [path for path in (NFT, SLIRP) if not os.access(path, os.X_OK)]
        self.why_not = MISSING.format(" and ".join(missing)) if missing else ""

    def refuse(self, why: str) -> None:
        """Opens no network from now on."""
        self.why_not = why

    def open(
        self, name: str, uid_base: int, limits: Limits, *, done: Opened, on_lost: Callable[[], None]
    ) -> None:
        """Calls `done` with the proxy or the reason for a failure, and `on_lost` if it ends by
        itself.
        """
        if self.why_not:
            done(self.why_not)
            return
        try:
            seen = look(self._dns)
            netns = Netns()
        except OSError as error:
            done(f"its network could not be made: {error}")
            return

        def loaded(code: int) -> None:
            try:
                if code != 0:
                    raise OSError(f"nft ended with {code}")
                netns.blocked()  # raises unless the rules are in force; only then start the proxy
                netns.connect(v6=seen.v6)
                proxy = self._start(name, uid_base, limits, netns, seen, on_lost)
            except OSError as error:
                netns.close()
                done(f"its network could not be made: {error.strerror or error}")
                return
            self._open.append(proxy)
            self._deny(proxy, addresses_of_the_host())  # with those added meanwhile
            done(proxy)

        try:
            self._nft(netns, rules.ruleset(seen.addresses, resolvers=seen.resolvers), loaded)
        except OSError as error:
            netns.close()
            done(cannot_start("nft", error))

    def close(self, proxy: EgressProxy, done: Callable[[], None]) -> None:
        """Ends the proxy, and calls `done` once nothing of it is left."""
        proxy._on_gone.append(done)
        proxy.end()
        if not proxy.is_alive:
            self._gone(proxy)

    def check_timeouts(self, now: float) -> None:
        """Kills nft processes that hang; their sandboxes are then refused."""
        for pid, deadline in self._loading.items():
            if now >= deadline:
                self._children.kill(pid)

    def examine(self, proxy: EgressProxy) -> str:
        """Waits until the proxy works, then tests that the destinations in `TRIED` are refused.
        This is the only blocking method.

        Returns the evidence, or raises OSError.
        """
        readable, _, _ = select.select([proxy._ready], [], [], READY_TIMEOUT_S)
        if not readable or not os.read(proxy._ready, 1):
            raise OSError(f"{SLIRP} does not start")
        v6 = has_v6()
        tried = [(host, port) for host, port in TRIED if v6 or ":" not in host]
        before = proxy.blocked()
        with proxy._netns.inside():
            for address in tried:
                kind = socket.AF_INET6 if ":" in address[0] else socket.AF_INET
                with socket.socket(kind, socket.SOCK_STREAM) as opened:
                    opened.settimeout(1.0)
                    if opened.connect_ex(address) == 0:
                        raise OSError(f"{address[0]} was reached")
        if proxy.blocked() - before != len(tried):
            raise OSError(f"the rules did not count {len(tried)} attempts")
        return f"public addresses only; {' and '.join(one for one, _ in tried)} were refused"

    # The steps -------------------------------------------------------------------------------

    def _nft(self, netns: Netns, text: str, done: Callable[[int], None]) -> None:
        with open(os.memfd_create("rules"), "w+b") as file:
            file.write(text.encode())
            file.flush()
            file.seek(0)
            with netns.inside():
                pid = os.posix_spawn(
                    NFT,
                    [NFT, "-f", "-"],
                    {},
                    file_actions=[
                        (os.POSIX_SPAWN_DUP2, file.fileno(), 0),
                        (os.POSIX_SPAWN_OPEN, 1, "/dev/null", os.O_WRONLY, 0),
                    ],
                    setsigmask=(),
                    setsigdef=SETTABLE,
                )

        def ended(code: int) -> None:
            del self._loading[pid]
            done(code)

        self._children.watch_new(pid, ended)
        self._loading[pid] = time.monotonic() + NFT_TIMEOUT_S

    def _start(
        self,
        name: str,
        uid_base: int,
        limits: Limits,
        netns: Netns,
        seen: Seen,
        on_lost: Callable[[], None],
    ) -> EgressProxy:
        """Forks the egress proxy. Raises OSError."""
        inner, outer = self._directory / f"{name}.inner", self._directory / f"{name}.outer"
        inner.write_text("".join(f"nameserver {one}\n" for one in seen.resolvers))
        outer.write_text(seen.resolv_conf)
        for path in (inner, outer):
            path.chmod(0o644)
        launcher = os.getpid()
        share = Limits(memory_mib=PROXY_MEMORY_MIB, cpu_percent=limits.cpu_percent)
        ready, tell = os.pipe()
        try:
            pid = os.fork()
        except OSError as error:
            os.close(ready)
            os.close(tell)
            raise OSError(error.errno, cannot_start("slirp4netns", error)) from None
        if pid == 0:
            try:
                confine.forget_the_launcher()
                self._cgroups.enter(self._state.id, name + SUFFIX, share, pids=1)
                # The last uid of the sandbox's range: a handler cannot become it.
                self._confine(launcher, uid_base + UIDS_PER_SANDBOX - 1, outer)
                _become_slirp(netns.tap, tell, v6=seen.v6)
            finally:
                os._exit(127)
        netns.give_tap()
        os.close(tell)
        proxy = EgressProxy(
            name=name,
            path=netns.path,
            resolv_conf=inner,
            _netns=netns,
            _denied=seen.addresses,
            _ready=ready,
            _kill=lambda: self._children.kill(pid),
            _on_lost=on_lost,
            _on_gone=[],
        )
        try:
            self._children.watch_new(pid, lambda _: self._ended(proxy))
        except OSError:
            os.close(ready)
            raise
        return proxy

    def _confine(self, launcher: int, uid: int, resolv_conf: Path) -> None:
        """In the forked child: drops all privileges except open descriptors and plain sockets."""
        root = self._state.root
        syscalls.unshare_mounts()
        syscalls.bind("/usr", root / "usr")
        syscalls.bind(resolv_conf, root / "etc" / "resolv.conf")
        os.chroot(root)
        os.chdir("/")
        for kind, limit in PROXY_RLIMITS.items():
            resource.setrlimit(kind, (limit, limit))
        confine.give_up_root(launcher, uid)

    def _ended(self, proxy: EgressProxy) -> None:
        proxy.is_alive = False
        if proxy._on_gone:
            self._gone(proxy)
        else:
            proxy._on_lost()

    def _addresses_changed(self) -> None:
        """Denies new addresses of the host in every sandbox; ends a sandbox in which that fails."""
        with contextlib.suppress(OSError):  # no more messages, or its buffer overflowed
            while self._changes.recv(65_536):
                pass
        now = addresses_of_the_host()
        for proxy in self._open:
            self._deny(proxy, now)

    def _deny(self, proxy: EgressProxy, addresses: set[str]) -> None:
        text = rules.added(sorted(addresses - proxy._denied))
        proxy._denied |= addresses
        if not text:
            return

        def loaded(code: int) -> None:
            if code != 0 and proxy.is_alive:
                proxy._on_lost()

        try:
            self._nft(proxy._netns, text, loaded)
        except OSError:
            proxy._on_lost()

    def _gone(self, proxy: EgressProxy) -> None:
        self._open.remove(proxy)
        os.close(proxy._ready)
        proxy._netns.close()
        self._cgroups.remove(self._state.id, proxy.name + SUFFIX)
        for kind in ("inner", "outer"):
            (self._directory / f"{proxy.name}.{kind}").unlink(missing_ok=True)
        for done in proxy._on_gone:
            done()


def _become_slirp(tap: int, ready: int, *, v6: bool) -> None:
    for descriptor in (tap, ready):
        os.set_inheritable(descriptor, True)
    options = ["--disable-host-loopback", "--enable-seccomp", "--netns-type=tapfd"]
    options += [f"--mtu={MTU}", f"--ready-fd={ready}", *(["--enable-ipv6"] if v6 else [])]
    os.execve(SLIRP, [SLIRP, *options, str(tap)], {})


def _address_changes() -> socket.socket:
    """A netlink socket that becomes readable when an address of the host is added or removed."""
    changes = socket.socket(
        socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_CLOEXEC, socket.NETLINK_ROUTE
    )
    changes.setblocking(False)
    changes.bind((0, ADDRESS_GROUPS))
    return changes


def look(dns: str) -> Seen:
    """The current state of the host; `dns`: the operator's resolver, if set. Raises OSError."""
    resolv_conf = f"nameserver {dns}\n" if dns else RESOLV_CONF.read_text()
    return Seen(addresses_of_the_host(), resolv_conf, has_v6())


def addresses_of_the_host() -> set[str]:
    return rules.host_addresses(Path("/proc/net/fib_trie").read_text(), _ipv6_route())


def has_v6() -> bool:
    return rules.has_v6(_ipv6_route())


def _ipv6_route() -> str:
    routes = Path("/proc/net/ipv6_route")
    return routes.read_text() if routes.exists() else ""
