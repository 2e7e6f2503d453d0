"""What a handler reaches with `network: egress`: only public addresses."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import socket
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from e2e import netlab
from e2e.netlab import FORBIDDEN, HOST_LATER, HOST_RANGE, HOST_V4, HOST_V6, NAME, PORT, PUBLIC, Lab
from e2e.server import Function, Server, children, short_dir, status_of, until, watched
from promises import promise

NEEDED = ("/usr/sbin/nft", "/usr/bin/slirp4netns", "/dev/net/tun")
pytestmark = [
    pytest.mark.sandbox,
    pytest.mark.skipif(
        not all(map(os.path.exists, NEEDED)) or shutil.which("ip") is None,
        reason=f"needs ip, {', '.join(NEEDED)}",
    ),
    promise("R14"),
]
WITHOUT_RULES = Path(__file__).with_name("without_rules.py")
# For each [kind, address, port] in the payload, tries to connect and prints the outcome.
TRY = r"""python3 -c '
import json, socket, sys
def attempt(kind, address, port):
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    with socket.socket(family, getattr(socket, kind)) as one:
        one.settimeout(2)
        one.connect((address, port))
        if kind == "SOCK_DGRAM":
            one.send(b"hello")
        return one.recv(64).decode()
found = {}
for kind, address, port in json.load(sys.stdin):
    try:
        found[f"{kind} {address}"] = attempt(kind, address, port)
    except OSError as error:
        found[f"{kind} {address}"] = type(error).__name__
print(json.dumps(found))
'"""
BOTH = ("SOCK_STREAM", "SOCK_DGRAM")
HOST = (*HOST_V4, *HOST_V6, HOST_RANGE)
IN_DISGUISE = ("::ffff:10.1.2.3", "::ffff:169.254.169.254", f"::ffff:{HOST_V4[0]}")
# the errors of a refused connection by TCP and by UDP
REFUSED = {"ConnectionRefusedError", "PermissionError"}


@pytest.fixture(scope="module")
def the_lab() -> Iterator[Lab]:
    with short_dir() as directory, netlab.lab(directory) as lab:
        yield lab


def with_resolver(lab: Lab, command: list[str]) -> list[str]:
    """Shows the server a resolv.conf of the test, which names a resolver on the host's loopback
    address.
    """
    file = lab.log.with_name("resolv.conf")
    file.write_text("nameserver 127.0.0.1\n")
    script = 'mount --bind "$0" /etc/resolv.conf && exec "$@"'
    return ["unshare", "--mount", "sh", "-c", script, str(file), *command]


@contextmanager
def serving(
    lab: Lab, options: str = "", change: Callable[[list[str]], list[str]] = list
) -> Iterator[Server]:
    with watched(options) as server:
        server._command = with_resolver(lab, change(server._command))
        yield add_runtime(server.start())


def add_runtime(server: Server) -> Server:
    body = {"name": "out", "kind": "shell", "network": "egress"}
    answer = server.call("POST", "/api/runtimes", body)
    assert answer.status_code == 201, answer.text
    return server


NOT_PREWARMED = "--prewarmed 0"  # tests with this option count egress proxies


@pytest.fixture(scope="module")
def server(the_lab: Lab) -> Iterator[Server]:
    with serving(the_lab, NOT_PREWARMED) as server:
        yield server


def attempts(addresses: list[str], port: int = PORT) -> list[tuple[str, str, int]]:
    return [(kind, address, port) for address in addresses for kind in BOTH]


def tried(function: Function, targets: list[tuple[str, str, int]]) -> dict[str, str]:
    record = function.invoke(json.dumps(targets))
    assert record["status"] == "success", record
    found: dict[str, str] = json.loads(record["stdout"])
    return found


def outcome(server: Server, targets: list[tuple[str, str, int]], **fields: Any) -> dict[str, str]:
    function = server.deploy(TRY, **{"runtime": "out", "timeout_seconds": 120, **fields})
    try:
        return tried(function, targets)
    finally:
        function.delete()


def test_the_forbidden_are_there_and_the_host_reaches_them(the_lab: Lab) -> None:
    for address in (*FORBIDDEN, *HOST):
        with socket.create_connection((address, PORT), 5) as connection:
            assert connection.recv(64) == b"here"
    the_lab.log.write_text("")


def test_public_servers_are_reached_by_either_protocol(server: Server, the_lab: Lab) -> None:
    found = outcome(server, attempts(list(PUBLIC)))
    assert set(found.values()) == {"here"}, found
    assert set(PUBLIC) <= the_lab.reached()


@pytest.mark.parametrize(
    "addresses", [FORBIDDEN, HOST, IN_DISGUISE], ids=["world", "host", "in disguise"]
)
def test_nothing_else_is_reached(server: Server, the_lab: Lab, addresses: tuple[str, ...]) -> None:
    found = outcome(server, attempts(list(addresses)))
    assert set(found.values()) == REFUSED, found
    assert not the_lab.reached() & set(addresses)


def test_the_api_is_not_reached_by_any_of_its_host_s_names(server: Server) -> None:
    port = int(server.url.rsplit(":", 1)[1])
    addresses = ["127.0.0.1", "::1", "10.0.2.2", "10.0.2.3", "fd00::2", *HOST]
    found = outcome(server, attempts(addresses, port))
    assert set(found.values()) <= REFUSED, found


LOOK_UP = f"""python3 -c '
import socket
print(*sorted({{one[4][0] for one in socket.getaddrinfo("{NAME}", 80)}}))
'"""


def test_the_forwarder_answers_names_and_nothing_but_names(server: Server) -> None:
    function = server.deploy(f"cat /etc/resolv.conf; {LOOK_UP}", runtime="out")
    record = function.invoke()
    function.delete()
    assert record["stdout"].splitlines() == ["nameserver 10.0.2.3", " ".join(sorted(PUBLIC))]
    found = outcome(server, attempts(["10.0.2.3"]))
    assert set(found.values()) == REFUSED


def test_the_operator_s_resolver_may_be_a_private_one(the_lab: Lab) -> None:
    with serving(the_lab, f"--egress-dns {netlab.RESOLVER}") as server:
        record = server.run(f"getent ahostsv4 {NAME}", runtime="out")
        assert PUBLIC[0] in record["stdout"]
        assert netlab.RESOLVER in the_lab.reached()
        found = outcome(server, attempts([netlab.RESOLVER], 53))
        assert set(found.values()) == REFUSED


SOCKETS = r"""python3 -c '
import socket
kinds = [
    (socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_ICMP),
    (socket.AF_INET6, socket.SOCK_RAW, socket.IPPROTO_ICMPV6),
    (socket.AF_INET, socket.SOCK_DGRAM, socket.IPPROTO_ICMP),
    (socket.AF_INET6, socket.SOCK_DGRAM, socket.IPPROTO_ICMPV6),
    (socket.AF_PACKET, socket.SOCK_RAW, 0),
    (socket.AF_PACKET, socket.SOCK_DGRAM, 0),
    (socket.AF_INET, socket.SOCK_STREAM, 132),
    (socket.AF_INET6, socket.SOCK_SEQPACKET, 0),
    (socket.AF_INET, socket.SOCK_DGRAM, 136),
]
for kind in kinds:
    try:
        socket.socket(*kind)
        print("made", kind)
    except OSError as error:
        print("refused")
one = socket.socket(socket.AF_UNIX)
try:
    one.connect("\0quiltfn-egress-test")
    print("made")
except OSError:
    print("refused")
'"""


@promise("F15")
def test_raw_packet_icmp_and_abstract_host_sockets_are_refused(server: Server) -> None:
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind("\0quiltfn-egress-test")
        listener.listen()
        with socket.socket(socket.AF_UNIX) as control:
            control.connect("\0quiltfn-egress-test")
        record = server.run(SOCKETS, runtime="out")
    assert record["stdout"].split() == ["refused"] * 10, record


MANY = f"""python3 -c '
import socket
made, refused = [], 0
for _ in range(300):
    try:
        made.append(socket.create_connection(("{PUBLIC[0]}", {PORT}), 5))
    except ConnectionRefusedError:
        refused += 1
print(len(made), refused)
'"""


def test_a_sandbox_has_so_many_connections_at_once_and_no_more(server: Server) -> None:
    record = server.run(MANY, runtime="out", timeout_seconds=60)
    assert record["stdout"] == "256 44\n", record


FLOOD = f"""python3 -c '
import socket, time
sent = refused = 0
for port in range(10000, 13000):
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as one:
        try:
            one.sendto(b"hello", ("{PUBLIC[0]}", port))
            sent += 1
        except PermissionError:
            refused += 1
time.sleep(1)
with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as one:
    one.connect(("{PUBLIC[0]}", {PORT}))
    for _ in range(3000):
        one.send(b"hello")
print(sent, refused)
'"""


def test_new_flows_are_limited_and_packets_of_one_flow_are_not(server: Server) -> None:
    record = server.run(FLOOD, runtime="out", timeout_seconds=60)
    assert record["status"] == "success", record
    sent, refused = map(int, record["stdout"].split())
    assert 500 <= sent <= 2000
    assert refused >= 1000


def test_a_handler_cannot_change_its_network(server: Server) -> None:
    handler = (
        "nft flush ruleset; ip link set eth0 down; ip addr add 8.8.4.99/24 dev eth0; "
        "ip route flush all; unshare -rn true; echo 0 >/proc/sys/net/ipv6/conf/eth0/accept_ra; "
        + TRY
    )
    function = server.deploy(f"cat >/tmp/wanted; ({handler}) </tmp/wanted", runtime="out")
    found = tried(function, attempts([PUBLIC[0], FORBIDDEN[0]]))
    function.delete()
    assert [found[f"{kind} {PUBLIC[0]}"] for kind in BOTH] == ["here", "here"]
    assert "here" not in [found[f"{kind} {FORBIDDEN[0]}"] for kind in BOTH]


LISTEN = f"""python3 -c '
import socket
one = socket.create_server(("::", {PORT + 1}), family=socket.AF_INET6, dualstack_ipv6=True)
one.settimeout(8)
one.accept()
print("reached")
'"""


def test_peers_do_not_reach_each_other(server: Server) -> None:
    """One sandbox listens on all of its addresses; another one tries all of them."""
    listening = server.deploy(LISTEN, runtime="out")
    running = server.later(listening.invoke)
    until(lambda: server.named("python3"))
    addresses = ["10.0.2.100", "fd00::100", "10.0.2.2", "127.0.0.1", *HOST]
    found = outcome(server, attempts(addresses, PORT + 1))
    assert "here" not in found.values()
    with pytest.raises(OSError):  # noqa: PT011, whichever it is
        socket.create_connection((HOST_V4[0], PORT + 1), 1)
    assert "reached" not in running.result()["stdout"]
    listening.delete()


def test_without_network_there_is_loopback_and_nothing_more(server: Server) -> None:
    addresses = [*PUBLIC, *FORBIDDEN, *HOST]
    found = outcome(server, attempts(addresses), runtime="shell")
    assert set(found.values()) == {"OSError"}, found
    assert server.run("cat /proc/net/dev", runtime="shell")["stdout"].count(":") == 1


def test_what_was_refused_is_counted_for_the_function_and_for_the_server(server: Server) -> None:
    name = "quiltfn_egress_blocked_total"
    before = server.metric(name)
    function = server.deploy(TRY, runtime="out")
    tried(function, attempts([*FORBIDDEN[:3], *PUBLIC]))
    shown = server.call("GET", f"{function.path}/egress").json()
    assert (shown["network"], shown["blocked_count"]) == ("egress", 6)
    refused = {(one["address"], one["protocol"]) for one in shown["blocked_destinations"]}
    assert refused == {(one, kind) for one in FORBIDDEN[:3] for kind in ("tcp", "udp")}
    assert {one["port"] for one in shown["blocked_destinations"]} == {PORT}
    function.delete()
    assert until(lambda: server.metric(name) - before) == 6
    line = until(lambda: [one for one in log_lines(server) if function.id in one])[-1]
    assert "egress was refused" in line
    assert "6" in line

    def used() -> list[int]:
        rows = server.call("GET", "/api/usage?by=function").json()["rows"]
        mine = [one for one in rows if one["function_id"] == function.id]
        return [one["egress_refused"] for one in mine if one["egress_refused"]]

    assert until(used, 30) == [6]


def log_lines(server: Server) -> list[str]:
    return [one for one in server.log.read_text().splitlines() if "egress" in one]


def test_an_address_that_the_host_gets_later_is_refused_too(server: Server, the_lab: Lab) -> None:
    function = server.deploy(TRY, runtime="out")
    # no host has this address yet
    assert "here" not in tried(function, attempts([HOST_LATER])).values()
    netlab.ip("-n", the_lab.host, "address", "add", f"{HOST_LATER}/24", "dev", "h0")
    try:
        until(lambda: set(tried(function, attempts([HOST_LATER])).values()) == REFUSED)
        the_lab.log.write_text("")
        assert set(tried(function, attempts([HOST_LATER])).values()) == REFUSED
        assert not the_lab.reached()
    finally:
        netlab.ip("-n", the_lab.host, "address", "delete", f"{HOST_LATER}/24", "dev", "h0")
        function.delete()


def egress_proxies(server: Server) -> list[int]:
    found = []
    for pid in children(server.launcher):
        with contextlib.suppress(OSError):  # the process may end at any time
            if Path(f"/proc/{pid}/comm").read_text().strip() == "slirp4netns":
                found.append(pid)
    return found


def test_the_egress_proxy_has_no_privilege_and_ends_with_its_sandbox(server: Server) -> None:
    function = server.deploy("echo", runtime="out")
    function.invoke()
    (pid,) = egress_proxies(server)
    status = status_of(pid)
    assert {int(one) for one in status["Uid"].split()} != {0}
    assert {status[f"Cap{kind}"] for kind in ("Prm", "Eff", "Bnd", "Inh", "Amb")} == {"0" * 16}
    assert status["NoNewPrivs"] == "1"
    assert status["Seccomp"] == "2"
    groups = Path(f"/proc/{pid}/cgroup").read_text().splitlines()
    assert any(f"/quiltfn/{server.id}/" in one and one.endswith("-egress-proxy") for one in groups)
    assert int(Path(f"/proc/{pid}/oom_score_adj").read_text()) >= 500
    assert os.listdir(f"/proc/{pid}/root/etc")
    assert not os.path.exists(f"/proc/{pid}/root/proc/1")
    function.delete()
    until(lambda: not egress_proxies(server))


def test_a_sandbox_whose_egress_proxy_died_is_replaced(server: Server) -> None:
    function = server.deploy(TRY, runtime="out")
    (pid,) = egress_proxies(server)
    before = server.guests().items()
    os.kill(pid, 9)
    until(lambda: not before & server.guests().items())
    # The server may not notice the sandbox's end before it sends an invocation there.
    until(lambda: function.try_invoke("[]").status_code == 200)
    assert "here" in tried(function, attempts([PUBLIC[0]])).values()
    function.delete()


def test_a_sandbox_that_was_prewarmed_has_the_same_rules(the_lab: Lab) -> None:
    with serving(the_lab) as server:
        first = server.deploy("echo", runtime="out")
        first.invoke()
        until(lambda: len(egress_proxies(server)) >= 3)
        found = outcome(server, attempts([*PUBLIC, *FORBIDDEN, *HOST]))
        allowed = {f"{kind} {address}" for kind in BOTH for address in PUBLIC}
        assert {name for name, came in found.items() if came == "here"} == allowed
        first.delete()


def test_the_launcher_s_sudden_end_leaves_no_egress_proxy(the_lab: Lab) -> None:
    with serving(the_lab, NOT_PREWARMED) as server:
        server.deploy("echo", runtime="out").invoke()
        (pid,) = egress_proxies(server)
        server.kill_launcher()
        server.wait()
        until(lambda: not os.path.exists(f"/proc/{pid}"))
        server.start()


def without_rules(how: str) -> Callable[[list[str]], list[str]]:
    return lambda command: [sys.executable, str(WITHOUT_RULES), how, *command[1:]]


def test_without_the_rules_the_forbidden_are_reached(the_lab: Lab) -> None:
    """Negative control: without the rules, the same attempts succeed."""
    with serving(the_lab, change=without_rules("trusting")) as server:
        found = outcome(server, attempts([*FORBIDDEN, *HOST]))
    reached = {name.split()[1] for name, came in found.items() if came == "here"}
    assert reached == {*FORBIDDEN, *HOST}, found


@pytest.mark.parametrize(
    ("how", "sentence"),
    [("examining", "not in force"), ("missing", "apt install nftables slirp4netns")],
)
def test_such_sandboxes_are_refused_without_rules(the_lab: Lab, how: str, sentence: str) -> None:
    with serving(the_lab, change=without_rules(how)) as server:
        health = server.until_ready()
        assert health["protections"]["egress"].startswith("refused: ")
        function = server.create("echo", runtime="out")
        state = function.deploy()
        assert state["state"] != "active"
        assert sentence in json.dumps(state)
        assert server.run("echo fine")["stdout"] == "fine\n"


def test_health_says_how_it_was_seen(server: Server) -> None:
    health = server.call("GET", "/api/functions/health").json()
    assert health["protections"]["egress"].startswith("public addresses only")
