"""The addresses that a sandbox with egress must not reach, as data."""

import ipaddress
import re
import socket
import struct
from collections.abc import Iterable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from promises import promise
from quiltfn.launcher import egress_rules as rules

pytestmark = promise("R14")

Network = ipaddress.IPv4Network | ipaddress.IPv6Network

# The IANA special-purpose registries, written again independently of the code.
SPECIAL = """
0.0.0.0/8 0.0.0.0/32 10.0.0.0/8 100.64.0.0/10 127.0.0.0/8 169.254.0.0/16 172.16.0.0/12 192.0.0.0/24
192.0.0.0/29 192.0.0.8/32 192.0.0.9/32 192.0.0.10/32 192.0.0.170/32 192.0.0.171/32 192.0.2.0/24
192.31.196.0/24 192.52.193.0/24 192.88.99.0/24 192.168.0.0/16 192.175.48.0/24 198.18.0.0/15
198.51.100.0/24 203.0.113.0/24 240.0.0.0/4 255.255.255.255/32 224.0.0.0/4
::1/128 ::/128 ::ffff:0:0/96 64:ff9b::/96 64:ff9b:1::/48 100::/64 100:0:0:1::/64 2001::/23 2001::/32
2001:1::1/128 2001:1::2/128 2001:2::/48 2001:3::/32 2001:4:112::/48 2001:10::/28 2001:20::/28
2001:30::/28 2001:db8::/32 2002::/16 2620:4f:8000::/48 3fff::/20 5f00::/16 fc00::/7 fe80::/10
ff00::/8 fec0::/10
"""
METADATA = ["169.254.169.254", "168.63.129.16", "100.100.100.200", "192.0.0.192", "fd00:ec2::254"]
OF_SLIRP = ["10.0.2.2", "10.0.2.3", "10.0.2.100", "10.0.2.255", "fd00::2", "fd00::3"]
IN_DISGUISE = ["::ffff:10.0.0.1", "::7f00:1", "64:ff9b::a00:1", "2002:a00:1::1", "2001::1"]
PUBLIC = """
1.1.1.1 8.8.8.8 9.9.9.9 11.0.0.1 93.184.216.34 100.63.255.255 100.128.0.1 126.255.255.255 128.0.0.1
151.101.1.1 169.253.1.1 169.255.1.1 172.15.255.255 172.32.0.1 185.199.108.153 192.0.1.1 192.167.1.1
192.169.1.1 198.17.1.1 198.20.0.1 203.0.112.1 203.0.114.1 223.255.255.255 168.63.129.15
2001:200::1 2001:4860:4860::8888 2003::1 2400:cb00::1 2606:4700:4700::1111 2620:fe::fe
2a00:1450::1 2c0f:f248::1
"""


def networks() -> list[Network]:
    return [ipaddress.ip_network(one) for one in (*rules.DENIED_V4, *rules.DENIED_V6)]


def denied(address: str) -> bool:
    parsed = ipaddress.ip_address(address)
    return any(parsed.version == net.version and parsed in net for net in networks())


@pytest.mark.parametrize("special", SPECIAL.split())
def test_every_special_purpose_range_is_denied_as_a_whole(special: str) -> None:
    wanted = ipaddress.ip_network(special)
    same = [one for one in networks() if one.version == wanted.version]
    assert any(wanted.subnet_of(one) for one in same)  # type: ignore[arg-type]


@pytest.mark.parametrize("address", [*METADATA, *OF_SLIRP, *IN_DISGUISE])
def test_metadata_the_sandbox_network_and_disguised_addresses_are_denied(address: str) -> None:
    assert denied(address)


@pytest.mark.parametrize("address", PUBLIC.split())
def test_ordinary_public_addresses_are_not_denied(address: str) -> None:
    assert not denied(address)


@given(st.ip_addresses())
def test_what_python_calls_not_global_is_denied(address: ipaddress.IPv4Address) -> None:
    if not address.is_global or address.is_multicast:
        assert denied(str(address))


def test_the_hosts_addresses_and_the_resolver_stand_in_the_rules() -> None:
    text = rules.ruleset(
        ["8.8.4.10", "11.9.0.0/24", "2001:4860::10"], resolvers=["10.0.2.3", "fd00::3"]
    )
    sets = dict(re.findall(r"set (\w+) \{[^}]*elements = \{ ([^}]*) \}", text))
    assert set(sets["denied_v4"].split(", ")) == {*rules.DENIED_V4, "8.8.4.10/32", "11.9.0.0/24"}
    assert set(sets["denied_v6"].split(", ")) == {*rules.DENIED_V6, "2001:4860::10/128"}
    assert "ip daddr 10.0.2.3 meta l4proto { tcp, udp } th dport 53 accept" in text
    assert "ip6 daddr fd00::3 meta l4proto { tcp, udp } th dport 53 accept" in text
    assert rules.added(["8.8.4.4", "2001:4860::1"]) == (  # two addresses that are added later
        "add element inet quiltfn denied_v4 { 8.8.4.4/32 }\n"
        "add element inet quiltfn denied_v6 { 2001:4860::1/128 }\n"
    )
    assert rules.added(["172.17.0.1", "fe80::1", "fd00::1"]) == ""


def test_every_chain_drops_what_no_rule_accepts() -> None:
    text = rules.ruleset([], resolvers=[])
    hooks = re.findall(r"type filter hook (\w+) priority 0; policy (\w+);", text)
    assert hooks == [("output", "drop"), ("input", "drop"), ("forward", "drop")]
    accepts = [line.strip() for line in text.splitlines() if line.endswith("accept")]
    assert accepts == [
        "oif lo accept",
        "icmpv6 type { nd-neighbor-solicit, nd-neighbor-advert } accept",
        "oif eth0 accept",
        "iif lo accept",
        "icmpv6 type { nd-neighbor-solicit, nd-neighbor-advert } accept",
        "ct state established,related accept",
    ]


FIB_TRIE = """Main:
  +-- 0.0.0.0/0 3 0 4
     |-- 0.0.0.0
        /0 universe UNICAST
     +-- 8.8.4.0/24 2 0 2
        |-- 8.8.4.0
           /24 link UNICAST
        |-- 8.8.4.10
           /32 host LOCAL
        |-- 8.8.4.255
           /32 link BROADCAST
     |-- 11.9.0.0
        /24 host LOCAL
     +-- 127.0.0.0/8 2 0 2
        |-- 127.0.0.0
           /8 host LOCAL
        |-- 127.0.0.1
           /32 host LOCAL
Id 100:
  +-- 0.0.0.0/0 2 0 2
     |-- 0.0.0.0
        /0 host LOCAL
"""
LOCAL = "80200001"


def route(
    *, to: str = "0" * 32, length: str = "00", flags: str = "00000003", device: str = "eth0"
) -> str:
    zero = "0" * 32
    return f"{to} {length} {zero} 00 {zero} 00000400 00000001 00000000 {flags} {device}\n"


def test_a_hosts_addresses_are_read_from_what_the_kernel_shows() -> None:
    routes = (
        route()
        + route(to="fe80" + "0" * 28, length="40", flags="00000001")
        + route(to="20014860486000000000000000000010", length="80", flags=LOCAL)
        + route(to="20010470" + "0" * 24, length="40", flags=LOCAL, device="lo")
        + route(to="0" * 31 + "1", length="80", flags=LOCAL, device="lo")
        + route(to="fe80" + "0" * 28, length="80", flags="00300001")
        + route(flags=LOCAL, device="lo")
    )
    found = rules.host_addresses(FIB_TRIE, routes)
    v4 = {"8.8.4.10", "8.8.4.255", "127.0.0.0/8", "127.0.0.1", "11.9.0.0/24"}
    assert found == v4 | {"2001:4860:4860::10", "2001:470::/64", "::1", "fe80::"}


@pytest.mark.parametrize(
    ("routes", "wanted"),
    [
        ("", False),
        (route(), True),
        (route(device="lo"), False),  # the kernel's route if there is no other
        (route(to="fe80" + "0" * 28, length="40"), False),
    ],
)
def test_ipv6_is_offered_where_it_leads_out_of_the_host(routes: str, wanted: bool) -> None:
    assert rules.has_v6(routes) is wanted


@pytest.mark.parametrize(
    ("text", "v6", "wanted"),
    [
        ("", True, []),
        ("nameserver 10.0.0.1\n", True, ["10.0.2.3"]),
        ("search x\nnameserver fe80::1%eth0\nnameserver 1.1.1.1\n", True, ["10.0.2.3", "fd00::3"]),
        ("nameserver ::1\n", False, []),
        ("nameserver\nnameserver nonsense\n# nameserver 1.1.1.1\n", True, []),
    ],
)
def test_the_forwarder_is_named_if_needed(text: str, v6: bool, wanted: Iterable[str]) -> None:
    assert rules.resolvers_of(text, v6=v6) == wanted


@pytest.mark.parametrize(
    ("request_", "kind", "names"),
    [
        (rules.counter_request(), 19, [b"quiltfn\0", b"blocked\0"]),
        (rules.elements_request(6), 13, [b"quiltfn\0", b"refused_v6\0"]),
    ],
)
def test_requests_have_the_kernels_format(request_: bytes, kind: int, names: list[bytes]) -> None:
    assert len(request_) == int.from_bytes(request_[:4], "little")
    assert request_[4:6] == bytes([kind, 10])
    assert request_[16] == 1
    assert all(name in request_ for name in names)


@pytest.mark.parametrize("answer", [b"", b"\0" * 20, b"\x24\0\0\0\x02\0\0\0" + b"\0" * 28])
def test_an_answer_without_a_counter_is_no_number(answer: bytes) -> None:
    assert rules.counted(answer) is None


def attribute(kind: int, content: bytes) -> bytes:
    return struct.pack("=HH", 4 + len(content), kind) + content + bytes(-len(content) % 4)


def element(key: bytes) -> bytes:
    return attribute(1, attribute(1 | 0x8000, attribute(1, key)) + attribute(3, b"flags"))


def answer_of(*elements: bytes, kind: int = 10 << 8 | 12) -> bytes:
    body = b"\1\0\0\0" + attribute(1, b"quiltfn\0") + attribute(3 | 0x8000, b"".join(elements))
    return struct.pack("=IHHII", 16 + len(body), kind, 2, 1, 0) + body


DONE = struct.pack("=IHHIIi", 20, 3, 2, 1, 0, 0)
V4 = socket.inet_aton("169.254.169.254") + b"\6\0\0\0" + b"\0\x50\0\0"
V6 = socket.inet_pton(socket.AF_INET6, "fd00::2") + b"\x11\0\0\0" + b"\1\xbb\0\0"


def test_the_destinations_are_read_out_of_what_the_kernel_answers() -> None:
    v4, v6 = ("169.254.169.254", 80, "tcp"), ("fd00::2", 443, "udp")
    assert rules.destinations(answer_of(element(V4)) + DONE, 4) == ([v4], True)
    assert rules.destinations(answer_of(element(V4), element(V4)), 4) == ([v4, v4], False)
    assert rules.destinations(answer_of(element(V6)) + DONE, 6) == ([v6], True)
    assert rules.destinations(answer_of() + DONE, 4) == ([], True)


@pytest.mark.parametrize(
    ("answer", "is_last"),
    [
        (b"", False),
        (DONE, True),
        (answer_of(element(V4), kind=2), True),  # the kernel reports an error
        (answer_of(element(V4))[:-20], True),  # the answer is shorter than its declared length
        (answer_of(element(V4[:8])), False),
        (answer_of(element(V4[:4] + b"\1" + V4[5:])), False),  # the protocol is neither TCP nor UDP
        (answer_of(b"\0\0\0\0"), False),
    ],
)
def test_what_is_no_destination_is_passed_over(answer: bytes, is_last: bool) -> None:
    assert rules.destinations(answer, 4) == ([], is_last)


def test_refusals_stand_before_the_limits_of_connections_and_these_before_the_route_out() -> None:
    """A connection to a denied address must always be refused, and not count for the limits."""
    lines = [line.strip() for line in rules.ruleset([], resolvers=[]).splitlines()]
    limit = lines.index("meta l4proto tcp ct state new ct count over 256 goto refused")
    rate = "ct status ! confirmed limit rate over 200/second burst 500 packets goto refused"
    denied = [
        lines.index(f"{v} goto refused") for v in ("ip daddr @denied_v4", "ip6 daddr @denied_v6")
    ]
    assert max(*denied, lines.index(rate)) < limit < lines.index("oif eth0 accept")
    start = lines.index("chain refused {")
    assert lines[start + 1 : start + 7] == [
        "counter name blocked",
        "add @refused_v4 { ip daddr . meta l4proto . th dport }",
        "add @refused_v6 { ip6 daddr . meta l4proto . th dport }",
        "meta l4proto tcp reject with tcp reset",
        "drop",
        "}",
    ]
