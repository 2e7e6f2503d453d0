"""nftables rules: the destinations forbidden to a sandbox with `network: egress`.

Pure: turns addresses into text. The rules are loaded into the sandbox's network namespace, which
the host's root owns, before its outside interface is up.
"""

import ipaddress
import socket
import struct
from collections.abc import Iterable, Iterator

# An address, a port, and tcp or udp.
Destination = tuple[str, int, str]

TABLE, COUNTER = "quiltfn", "blocked"
INTERFACE = "eth0"
# slirp4netns' own network: the sandbox, its egress proxy, and the addresses that forward DNS.
ADDRESS_V4, GATEWAY_V4, RESOLVER_V4 = "10.0.2.100", "10.0.2.2", "10.0.2.3"
ADDRESS_V6, GATEWAY_V6, RESOLVER_V6 = "fd00::100", "fd00::2", "fd00::3"
RTF_LOCAL, RTF_ANYCAST = 0x8000_0000, 0x0010_0000
CONNECTIONS_MAX = 256  # open TCP connections
# New flows: TCP connections, and UDP with a new port; the kernel tracks each for minutes.
FLOWS_PER_S, FLOWS_BURST = 200, 500
# Maximum number of recorded refused destinations for each address family.
DESTINATIONS_MAX = 32
PROTOCOLS = {socket.IPPROTO_TCP: "tcp", socket.IPPROTO_UDP: "udp"}

# The IANA special-purpose registries, including globally reachable ranges without servers, and
# further addresses of cloud services.
DENIED_V4 = (
    "0.0.0.0/8",  # this network
    "10.0.0.0/8",
    "100.64.0.0/10",  # carriers; 100.100.100.200 is metadata in one cloud
    "127.0.0.0/8",
    "168.63.129.16/32",  # a public address that is the host's agent in one cloud
    "169.254.0.0/16",  # link-local; 169.254.169.254 is metadata in most clouds
    "172.16.0.0/12",
    "192.0.0.0/24",  # protocol assignments; 192.0.0.192 is metadata in one cloud
    "192.0.2.0/24",  # documentation
    "192.31.196.0/24",
    "192.52.193.0/24",
    "192.88.99.0/24",  # 6to4 relays
    "192.168.0.0/16",
    "192.175.48.0/24",
    "198.18.0.0/15",  # benchmarks
    "198.51.100.0/24",
    "203.0.113.0/24",
    "224.0.0.0/4",  # multicast
    "240.0.0.0/4",  # reserved, and broadcast
)
# All ranges outside of global unicast (2000::/3) are denied as a whole: loopback, IPv4 in IPv6
# (::ffff:0:0/96 and NAT64's 64:ff9b::/96), unique local (fd00:ec2::254 is metadata), link-local and
# multicast.
DENIED_V6 = (
    "::/3",
    "2001::/23",  # protocol assignments, Teredo among them
    "2001:db8::/32",
    "2002::/16",  # 6to4 carries IPv4 addresses
    "2620:4f:8000::/48",
    "3fff::/20",
    "4000::/2",
    "8000::/1",
)

# Counts and records an attempt, then refuses it; a full set records no more.
REFUSED = f"""\
  set refused_v4 {{
    type ipv4_addr . inet_proto . inet_service
    flags dynamic
    size {DESTINATIONS_MAX}
  }}
  set refused_v6 {{
    type ipv6_addr . inet_proto . inet_service
    flags dynamic
    size {DESTINATIONS_MAX}
  }}
  chain refused {{
    counter name {COUNTER}
    add @refused_v4 {{ ip daddr . meta l4proto . th dport }}
    add @refused_v6 {{ ip6 daddr . meta l4proto . th dport }}
    meta l4proto tcp reject with tcp reset
    drop
  }}
"""


def ruleset(host: Iterable[str], *, resolvers: Iterable[str]) -> str:
    """The input of nft. `host`: every address of the host; `resolvers`: name servers that are
    allowed although their addresses are denied.

    A refused attempt fails at once, as ECONNREFUSED or (UDP) EPERM, and is counted; the first such
    destinations are recorded. Packets other than TCP and UDP, which a handler cannot send, are
    dropped silently.
    """
    own = [ipaddress.ip_network(one) for one in host]
    denied_v4 = [*DENIED_V4, *(str(one) for one in own if one.version == 4)]
    denied_v6 = [*DENIED_V6, *(str(one) for one in own if one.version == 6)]
    names = "".join(
        f"    {family(one)} daddr {one} meta l4proto {{ tcp, udp }} th dport 53 accept\n"
        for one in resolvers
    )
    flood = f"limit rate over {FLOWS_PER_S}/second burst {FLOWS_BURST} packets"
    return f"""table inet {TABLE} {{
  counter {COUNTER} {{
  }}
  set denied_v4 {{
    type ipv4_addr
    flags interval
    auto-merge
    elements = {{ {", ".join(denied_v4)} }}
  }}
  set denied_v6 {{
    type ipv6_addr
    flags interval
    auto-merge
    elements = {{ {", ".join(denied_v6)} }}
  }}
{REFUSED}  chain out {{
    type filter hook output priority 0; policy drop;
    oif lo accept
    icmpv6 type {{ nd-neighbor-solicit, nd-neighbor-advert }} accept
    meta l4proto != {{ tcp, udp }} drop
    ct status ! confirmed {flood} goto refused
{names}    ip daddr @denied_v4 goto refused
    ip6 daddr @denied_v6 goto refused
    meta l4proto tcp ct state new ct count over {CONNECTIONS_MAX} goto refused
    oif {INTERFACE} accept
  }}
  chain in {{
    type filter hook input priority 0; policy drop;
    iif lo accept
    icmpv6 type {{ nd-neighbor-solicit, nd-neighbor-advert }} accept
    ct state established,related accept
  }}
  chain through {{
    type filter hook forward priority 0; policy drop;
  }}
}}
"""


def added(addresses: Iterable[str]) -> str:
    """The input of nft that denies more addresses of the host; empty if there are none."""
    text = ""
    for network in map(ipaddress.ip_network, addresses):
        ranges = map(ipaddress.ip_network, DENIED_V4 if network.version == 4 else DENIED_V6)
        if not any(network.network_address in each for each in ranges):
            text += f"add element inet {TABLE} denied_v{network.version} {{ {network} }}\n"
    return text


def family(address: str) -> str:
    """The keyword of nft for the family of an address."""
    return "ip" if ipaddress.ip_address(address).version == 4 else "ip6"


def host_addresses(fib_trie: str, ipv6_route: str) -> set[str]:
    """Every address of a host, with /n for a range (routes of type local), from /proc/net/fib_trie
    and /proc/net/ipv6_route.

    Includes broadcast and anycast addresses, but not the local route to everything that transparent
    proxies have.
    """
    found, last = set(), ""
    for line in fib_trie.splitlines():
        words = line.split()
        if words[:1] == ["|--"]:
            last = words[1]
        elif words and words[-1] in ("LOCAL", "BROADCAST") and words[0] != "/0":
            found.add((last + words[0]).removesuffix("/32"))
    for line in ipv6_route.splitlines():
        words = line.split()
        if int(words[8], 16) & (RTF_LOCAL | RTF_ANYCAST) and words[1] != "00":
            address = socket.inet_ntop(socket.AF_INET6, bytes.fromhex(words[0]))
            found.add(f"{address}/{int(words[1], 16)}".removesuffix("/128"))
    return found


def has_v6(ipv6_route: str) -> bool:
    """Whether the host has a default route for IPv6, by the text of /proc/net/ipv6_route."""
    for line in ipv6_route.splitlines():
        words = line.split()
        if words[0] == "0" * 32 and words[1] == "00" and words[9] != "lo":
            return True
    return False


def resolvers_of(resolv_conf: str, *, v6: bool) -> list[str]:
    """The forwarding addresses for which slirp4netns finds a name server in that file."""
    kinds = set()
    for line in resolv_conf.splitlines():
        words = line.split()
        if words[:1] == ["nameserver"] and len(words) > 1:
            try:
                kinds.add(ipaddress.ip_address(words[1].partition("%")[0]).version)
            except ValueError:
                continue
    found = [RESOLVER_V4] if 4 in kinds else []
    return [*found, RESOLVER_V6] if v6 and 6 in kinds else found


def counted(message: bytes) -> int | None:
    """The packet count in a netlink response about one counter; None for any other response.

    nlmsghdr (16 bytes), nfgenmsg (4), then attributes: NFTA_OBJ_DATA (4) holds NFTA_COUNTER_PACKETS
    (2), a big-endian number. See linux/netfilter/nf_tables.h.
    """
    if len(message) < 20:
        return None
    length, kind = struct.unpack_from("=IH", message)
    if kind & 0xFF == 2 and kind < 0x100:  # NLMSG_ERROR
        return None
    data = _attributes(message[20:length]).get(4)
    packets = _attributes(data or b"").get(2)
    return None if packets is None else int.from_bytes(packets, "big")


def counter_request() -> bytes:
    """NFT_MSG_GETOBJ for the counter of `ruleset`."""
    body = struct.pack("=BBH", socket.AF_UNSPEC, 0, 0)
    body = bytes([1]) + body[1:]  # NFPROTO_INET
    body += _attribute(1, TABLE.encode() + b"\0") + _attribute(2, COUNTER.encode() + b"\0")
    body += _attribute(3, struct.pack(">I", 1))  # NFT_OBJECT_COUNTER
    kind = 10 << 8 | 19  # NFNL_SUBSYS_NFTABLES, NFT_MSG_GETOBJ
    return struct.pack("=IHHII", 16 + len(body), kind, 1, 1, 0) + body  # NLM_F_REQUEST


def elements_request(family: int) -> bytes:
    """NFT_MSG_GETSETELEM for all elements of `refused_v4` or `refused_v6`."""
    body = bytes([1, 0, 0, 0])  # NFPROTO_INET
    body += _attribute(1, TABLE.encode() + b"\0")
    body += _attribute(2, f"refused_v{family}".encode() + b"\0")
    kind = 10 << 8 | 13  # NFNL_SUBSYS_NFTABLES, NFT_MSG_GETSETELEM
    return struct.pack("=IHHII", 16 + len(body), kind, 0x301, 1, 0) + body  # a request to dump


def destinations(data: bytes, family: int) -> tuple[list[Destination], bool]:
    """The elements in a netlink response to `elements_request`, and whether it was the last. Each
    element is a list of NFTA_SET_ELEM_KEY (1) with NFTA_DATA_VALUE (1): address, protocol and port,
    each in whole words of four bytes.
    """
    found: list[Destination] = []
    kind, size = (socket.AF_INET, 4) if family == 4 else (socket.AF_INET6, 16)
    while len(data) >= 16:
        length, message = struct.unpack_from("=IH", data)
        if message in (2, 3) or not 16 <= length <= len(data):  # an error, or the end
            return found, True
        for _, element in _all_attributes(_attributes(data[20:length]).get(3, b"")):
            value = _attributes(_attributes(element).get(1, b"")).get(1, b"")
            if len(value) >= size + 8 and value[size] in PROTOCOLS:
                (port,) = struct.unpack_from(">H", value, size + 4)
                address = socket.inet_ntop(kind, value[:size])
                found.append((address, port, PROTOCOLS[value[size]]))
        data = data[(length + 3) & ~3 :]
    return found, False


def _attribute(kind: int, content: bytes) -> bytes:
    padded = content + b"\0" * (-len(content) % 4)
    return struct.pack("=HH", 4 + len(content), kind) + padded


def _attributes(data: bytes) -> dict[int, bytes]:
    return dict(_all_attributes(data))


def _all_attributes(data: bytes) -> Iterator[tuple[int, bytes]]:
    at = 0
    while at + 4 <= len(data):
        length, kind = struct.unpack_from("=HH", data, at)
        if length < 4:
            return
        yield kind & 0x3FFF, data[at + 4 : at + length]
        at += (length + 3) & ~3
