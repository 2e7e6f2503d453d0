"""`quiltfn doctor --fleet FILE`: checks of a node and its fleet. They only read, without locks. No
finding contains a secret of the node's file.
"""

import asyncio
import errno
import ipaddress
import itertools
import socket
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from quiltfn import __version__
from quiltfn.base.clock import SystemClock
from quiltfn.base.setting_files import BadSetting, read_private
from quiltfn.fleet.directory import MemberDirectory
from quiltfn.fleet.files import NodeFile, parse, split_address
from quiltfn.fleet.identity import PING
from quiltfn.fleet.peers import HttpPeers
from quiltfn.host.checks import Finding, database, fine, refuse, warn
from quiltfn.model.member import Member, NodeState, Presence
from quiltfn.ports.placement import PeerUnavailable
from quiltfn.server.opened_store import NO_DRIVER
from quiltfn.settings import Settings, is_store_verified
from quiltfn.store import StoreBroken
from quiltfn.store.database.compatibility import OLDEST, is_older

if TYPE_CHECKING:
    from quiltfn.store.fleet.facts import FleetFacts

CERTIFICATE_SOON_DAYS = 30
SLOW_S = 0.010
CLOCK_OFF_MAX_S = 5.0
# Connections of a node: one for writes, one for reads, one for notices, and two for heartbeats and
# slots, which must not wait.
CONNECTIONS_OF_NODE = 5
AT_ONCE = 20  # maximum concurrent requests to peers
TIMES = ("fleet_beat_s", "fleet_fence_s", "fleet_end_s", "fleet_reap_s")


def examine(settings: Settings, path: Path) -> Iterator[Finding]:
    """Checks for conditions that keep this file's node out of its fleet, or weaken the fleet."""
    try:
        own = parse(NodeFile, read_private("fleet", path))
    except BadSetting as error:
        advice = "use the file that quiltfn fleet add-node created, with chown root and chmod 600"
        yield refuse("fleet_file", str(error), advice)
        return
    yield fine("fleet_file", f"{path} is the file of node {own.name} in the fleet {own.fleet_id}")
    yield certificate(own, SystemClock().unix())
    found = read(own)
    if isinstance(found, Finding):
        yield found
        yield peer_port(own, is_running=False)
        return
    yield database(own.store, is_store_verified(own.store), found.settings["server_version"])
    yield from of_database(found)
    yield from of_members(settings, own, found.members)


def of_database(facts: "FleetFacts") -> Iterator[Finding]:
    """Checks the fleet's database and its PostgreSQL server."""
    yield latency(facts)
    yield schema(facts)
    yield role(facts)
    yield synced(facts.settings)
    yield failover(facts)
    yield connections(facts)
    yield clock(facts)


def of_members(settings: Settings, own: NodeFile, members: Sequence[Member]) -> Iterator[Finding]:
    """Checks the nodes' reports, and whether they can be reached from here."""
    by_name = {one.name: one for one in members}
    yield membership(own, by_name.get(own.name))
    yield versions(own, members)
    yield times(settings, members)
    is_running = own.name in by_name and by_name[own.name].presence is Presence.PRESENT
    yield peer_port(own, is_running=is_running)
    yield from peers(own, members)


def certificate(own: NodeFile, now: float) -> Finding:
    """Checks the validity of the node's certificate. `now`: Unix seconds."""
    again = (
        "create a new file with quiltfn fleet add-node --output NEW and the same name; restart the "
        "node"
    )
    try:
        days = own.check_certificate(now)
    except BadSetting as error:
        return refuse("certificate", str(error), again)
    sentence = f"the node's certificate is valid for {days:.0f} days"
    if days < CERTIFICATE_SOON_DAYS:
        return warn("certificate", sentence, again)
    return fine("certificate", sentence)


def read(own: NodeFile) -> "FleetFacts | Finding":
    """Reads the facts from the database; returns a finding if it cannot be used."""
    try:
        from quiltfn.store.fleet.facts import read_facts  # noqa: PLC0415 - it needs the extra
    except ImportError as error:
        return refuse("store", NO_DRIVER.format(error=error), "install quiltfn[postgresql]")
    try:
        return read_facts(own.store, own.store_password or None, own.fleet_id, SystemClock().unix)
    except StoreBroken as error:
        sentence = f"{own.store} cannot be used: {error}"
        return refuse(
            "store",
            sentence,
            "start it, allow connections from this machine, or create the file again",
        )


def latency(facts: "FleetFacts") -> Finding:
    """Checks the database's round trip time. Each new slot, asynchronous invocation and strictly
    stored record has to wait for it.
    """
    sentence = f"a round trip to the database takes {1000 * facts.latency_s:.1f} ms"
    if facts.latency_s > SLOW_S:
        advice = "reduce the latency: starts of instances and asynchronous invocations wait for it"
        return warn("latency", sentence, advice)
    return fine("latency", sentence)


def schema(facts: "FleetFacts") -> Finding:
    sentence = f"its tables are of revision {facts.revision}"
    if facts.revision == facts.known:
        return fine("schema", f"{sentence}, as in this quiltfn")
    if is_older(__version__, facts.oldest):
        return refuse(
            "schema",
            f"{sentence}, for quiltfn {facts.oldest} or newer, but this is {__version__}",
            f"install quiltfn {facts.oldest}, or the version of the other nodes",
        )
    if facts.revision is not None and facts.revision > facts.known:
        return fine("schema", f"{sentence}, of a newer quiltfn, and compatible with this one")
    return warn(
        "schema",
        f"{sentence}: the first node with this quiltfn upgrades them to {facts.known}",
        "back up the database before that",
    )


def role(facts: "FleetFacts") -> Finding:
    """Checks that the role of the nodes has the rights that it needs, and no more."""
    if facts.is_superuser:
        return warn(
            "role",
            "nodes connect as a superuser of PostgreSQL",
            "create a role without other rights that owns the database, and new files of the fleet "
            "with that role",
        )
    if facts.foreign_tables:
        some = ", ".join(facts.foreign_tables[:3])
        return refuse(
            "role",
            f"the role of the node's file does not own {len(facts.foreign_tables)} of the tables: "
            f"{some}",
            "another role may have restored the database: ALTER TABLE … OWNER TO the node file's "
            "role",
        )
    return fine("role", "the role owns the tables and is no superuser")


def synced(settings: Mapping[str, str]) -> Finding:
    off = [name for name in ("fsync", "full_page_writes") if settings[name] != "on"]
    if off:
        return warn(
            "synced",
            f"PostgreSQL runs with {' and '.join(off)} off: a power failure can lose acknowledged "
            "data",
            f"set {' and '.join(off)} to on",
        )
    return fine("synced", "PostgreSQL syncs commits to disk")


def failover(facts: "FleetFacts") -> Finding:
    """Checks whether a failover could lose data."""
    names = facts.settings["synchronous_standby_names"]
    if names:
        return fine("failover", f"commits wait for a synchronous standby ({names})")
    if facts.standbys:
        return warn(
            "failover",
            "the standby is asynchronous: a failover to it can lose acknowledged data, and slots, "
            "so that more than max_instances run for a while",
            "set synchronous_standby_names",
        )
    return fine("failover", "there is no standby, so no failover is possible")


def connections(facts: "FleetFacts") -> Finding:
    """Checks that PostgreSQL allows enough connections for all nodes."""
    there = max(1, sum(one.state is not NodeState.REMOVED for one in facts.members))
    needed = there * CONNECTIONS_OF_NODE
    room = facts.connections_max - facts.connections_of_others
    sentence = (
        f"{there} node(s) use up to {needed} connections; PostgreSQL allows {room} besides those "
        "of other databases"
    )
    if needed > room:
        return warn("connections", sentence, "raise max_connections, or the limit of the role")
    return fine("connections", sentence)


def clock(facts: "FleetFacts") -> Finding:
    off = facts.clock_off_s
    how = "later" if off > 0 else "earlier"
    sentence = f"the database's clock is {abs(off):.2f} s {how} than this machine's"
    if abs(off) > CLOCK_OFF_MAX_S:
        advice = "set both by NTP: certificates, logs and ids use this machine's clock"
        return warn("clock", sentence, advice)
    return fine("clock", sentence)


def membership(own: NodeFile, member: Member | None) -> Finding:
    if member is None:
        return fine("node", f"node {own.name} has not been started yet")
    if member.state is NodeState.REMOVED:
        advice = "create the file of a new node with quiltfn fleet add-node and another name"
        return refuse("node", f"node {own.name} was removed from the fleet", advice)
    if member.address != own.address and member.presence is Presence.PRESENT:
        return warn(
            "node",
            f"node {own.name} serves at {member.address}, but its file says {own.address}",
            "restart the node, or check which file it was started with",
        )
    return fine("node", f"node {own.name} is {member.state}, {member.presence}")


def versions(own: NodeFile, members: Sequence[Member]) -> Finding:
    """Checks for an unfinished upgrade, and for nodes that are too old for this version."""
    there = [one for one in members if one.presence is Presence.PRESENT]
    running = ", ".join(f"{one.name} has {one.version}" for one in there)
    if any(is_older(one.version, OLDEST) for one in there if one.name != own.name):
        return refuse(
            "version",
            f"this quiltfn is {__version__} and works with nodes of {OLDEST} or newer: {running}",
            f"upgrade the other nodes to {OLDEST} first",
        )
    if any(one.version != __version__ for one in there):
        return warn(
            "version",
            f"some running nodes have another version than this quiltfn, {__version__}: {running}",
            "upgrade all nodes to one version: new features may be missing until then",
        )
    return fine("version", f"all running nodes have this quiltfn's version, {__version__}")


def times(settings: Settings, members: Sequence[Member]) -> Finding:
    """Checks that all nodes have the same settings for times; otherwise a take-over can take longer
    than configured.
    """
    mine = [getattr(settings, name) for name in TIMES]
    times = ", ".join(f"{name} {value:g}" for name, value in zip(TIMES, mine, strict=True))
    others = [
        f"{one.name} has {' '.join(f'{value:g}' for value in one.report.times)}"
        for one in members
        if one.presence is Presence.PRESENT and one.report.times and list(one.report.times) != mine
    ]
    if others:
        return warn(
            "times",
            f"the nodes have different times: here {times}; {'; '.join(others[:5])}",
            "set the same times on all nodes (for this check with --config), and restart those "
            "that differ: a node is waited for according to its own times",
        )
    return fine("times", f"all running nodes have the same times: {times}")


# The peer port -----------------------------------------------------------------------------------


def peer_port(own: NodeFile, *, is_running: bool) -> Finding:
    """Checks that the node can listen at its peer port, and that the port is not public.
    `is_running`: whether the node is listening now.
    """
    problem = None if is_running else why_not_bound(own)
    if problem is not None:
        advice = "free the port, or create the file again with another --listen"
        return refuse("peer_port", f"{own.listen} cannot be bound: {problem}", advice)
    public = public_addresses(own)
    if public:
        return warn(
            "peer_port",
            f"the peer port {own.listen} has a public address ({', '.join(public[:3])})",
            "allow only the nodes to reach it (by a packet filter), or use a private address with "
            "--address and --listen",
        )
    return fine("peer_port", f"the peer port {own.listen} has no public address")


def why_not_bound(own: NodeFile) -> str | None:
    """Briefly binds the port like the node does; returns the error, if any."""
    host, port = split_address("listen", own.listen)
    try:
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        with socket.socket(found[0], socket.SOCK_STREAM) as opened:
            opened.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            opened.bind(found[4])
    except OSError as error:
        if error.errno == errno.EADDRINUSE:
            return "another program uses it"
        return error.strerror or str(error)
    return None


def public_addresses(own: NodeFile) -> list[str]:
    """Returns the public addresses among those of the settings `address` and `listen`."""
    hosts = [split_address(name, getattr(own, name))[0] for name in ("address", "listen")]
    found = {one for host in hosts for one in addresses_of(host)}
    if any(ipaddress.ip_address(one).is_unspecified for one in found):
        found |= set(addresses_of_machine())
    return sorted(one for one in found if ipaddress.ip_address(one).is_global)


def addresses_of(host: str) -> list[str]:
    """Returns the current addresses of a host name; none if it has none."""
    try:
        return [str(one[4][0]).partition("%")[0] for one in socket.getaddrinfo(host, None)]
    except OSError:
        return []


def addresses_of_machine(root: Path = Path("/")) -> list[str]:
    """Returns the addresses of this machine's network devices, as listed by the kernel."""
    found = []
    with_words = (root / "proc/net/fib_trie", root / "proc/net/if_inet6")
    four, six = (path.read_text() if path.exists() else "" for path in with_words)
    lines = four.splitlines()
    for before, line in itertools.pairwise(lines):
        if "/32 host LOCAL" in line and "|--" in before:
            found.append(before.partition("|--")[2].strip())
    for line in six.splitlines():
        found.append(str(ipaddress.ip_address(bytes.fromhex(line.split()[0]))))
    return list(dict.fromkeys(found))


def peers(own: NodeFile, members: Sequence[Member]) -> list[Finding]:
    """Checks the connection to each other present node, with this node's certificate."""
    others = [
        one
        for one in members
        if one.name != own.name
        and one.presence is Presence.PRESENT
        and one.state is not NodeState.REMOVED
    ]
    return asyncio.run(_asked(own, members, others)) if others else []


async def _asked(
    own: NodeFile, members: Sequence[Member], others: Sequence[Member]
) -> list[Finding]:
    directory, turn = MemberDirectory(own.name), asyncio.Semaphore(AT_ONCE)
    directory.learned(members)
    asking = HttpPeers(own, directory, keys=None)

    async def ask(member: Member) -> Finding:
        async with turn:
            return await _ask(asking, member)

    try:
        return list(await asyncio.gather(*map(ask, others)))
    finally:
        await asking.aclose()


async def _ask(asking: HttpPeers, member: Member) -> Finding:
    name, began = f"peer_{member.name}", time.monotonic()
    try:
        async with asking.request(member.name, "GET", PING.encode(), [], b"", None) as answer:
            await answer.read(0)
    except PeerUnavailable as error:
        advice = (
            f"allow this machine to reach {member.address}, and check the log of node {member.name}"
        )
        return warn(name, str(error), advice)
    took_ms = 1000 * (time.monotonic() - began)
    return fine(
        name, f"node {member.name} at {member.address} accepts this node, after {took_ms:.0f} ms"
    )
