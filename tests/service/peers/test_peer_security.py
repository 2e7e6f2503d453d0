"""Which clients the peer port refuses, which peers a node does not accept, and which signed headers
are invalid. Each test has a control: the same request without the fault.
"""

import asyncio
import contextlib
import ssl
import time
from collections.abc import AsyncIterator, Iterator
from typing import Any

import pytest
import pytest_asyncio
from msgspec.structs import replace
from structlog.testing import capture_logs

from promises import promise
from quiltfn.api.http.response import Response
from quiltfn.fleet import peer_server
from quiltfn.fleet.certificates import Credential, make_node_certificate
from quiltfn.fleet.files import NodeFile
from quiltfn.fleet.identity import HEADER, HELLO, NONCE_HEADER, Side, Signer
from quiltfn.fleet.peer_server import open_peer_server
from quiltfn.fleet.peers import HttpPeers
from quiltfn.fleet.tls import client_context, node_of
from quiltfn.ports.peers import PeerGone, PeerUnreachable
from service.peers.pair import CALL, CALLER, Directory, Pair, a_fleet, a_node, a_pair, listener
from service.platform_harness import until
from timeouts import scaled

pytestmark = promise("N4")

DAY_S = 86_400


@pytest_asyncio.fixture
async def pair() -> AsyncIterator[Pair]:
    async with a_pair(time.time()) as made:
        yield made


@pytest.fixture
def log() -> Iterator[list[Any]]:
    with capture_logs() as lines:
        yield lines


async def logged(log: list[Any], text: str) -> dict[str, Any]:
    """Waits for the log line that reports a refusal with this text."""
    async with asyncio.timeout(scaled(5)):
        while True:
            for line in log:
                if line["event"].startswith("refused on the peer port") and text in str(line):
                    return dict(line)
            await asyncio.sleep(0.01)


async def ask_as(pair: Pair, own: NodeFile, name: str = "two") -> tuple[int, bytes]:
    """Sends one request as the node with this file."""
    directory = Directory({name: f"127.0.0.1:{pair.port}"})
    peers = HttpPeers(own, directory, keys=None)
    try:
        async with peers.request(name, "GET", b"/x", (), b"", CALL) as answer:
            return answer.status, await answer.read(1000)
    finally:
        await peers.aclose()


async def refused(pair: Pair, own: NodeFile) -> str:
    with pytest.raises(PeerUnreachable) as error:
        await ask_as(pair, own)
    assert not pair.seen, "nothing of it came to the handler"
    return str(error.value)


# Certificates --------------------------------------------------------------------------------


async def test_the_same_with_nothing_wrong(pair: Pair, log: list[Any]) -> None:
    """Control of the following tests: they differ from this request, which is accepted, in one
    fault each.
    """
    three = a_node(pair.fleet, "three", time.time())
    assert await ask_as(pair, three) == (200, b"/x")
    assert pair.seen[0][1].node == "three"
    assert not log


async def test_without_a_certificate_nobody_is_let_in(pair: Pair, log: list[Any]) -> None:
    bare = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    bare.load_verify_locations(cadata=pair.second.ca_certificate)
    with_one = client_context(pair.first)
    for context, is_let_in in ((bare, False), (with_one, True)):
        reader, writer = await asyncio.open_connection(
            "127.0.0.1", pair.port, ssl=context, server_hostname="two"
        )
        found = b""
        with contextlib.suppress(OSError):
            writer.write(f"GET {HELLO} HTTP/1.1\r\nhost: two\r\n\r\n".encode())
            found = await reader.read(1000)
        assert found.startswith(b"HTTP/1.1 204") is is_let_in, found
        writer.transport.abort()
    assert (await logged(log, "DID_NOT_RETURN_A_CERTIFICATE"))["address"] == "127.0.0.1"
    assert not pair.seen


async def test_a_node_of_another_fleet_is_not_let_in(pair: Pair, log: list[Any]) -> None:
    other = a_node(a_fleet(time.time()), "one", time.time())
    # This node trusts the other fleet's authority, so it is the requested node that must refuse.
    other = replace(other, ca_certificate=pair.first.ca_certificate)
    await refused(pair, other)
    line = await logged(log, "handshake")
    assert line["kind"] == "handshake"
    assert "verify" in line["event"] or "issuer" in line["event"] or "signature" in line["event"]


async def test_a_node_of_another_fleet_is_not_taken_for_one_of_this(pair: Pair) -> None:
    other = a_node(a_fleet(time.time()), "two", time.time())
    bound = listener()
    with bound:
        pair.of_one.addresses["two"] = f"127.0.0.1:{bound.getsockname()[1]}"
        async with open_peer_server(other, Directory(), pair.handle, bound, keys=None):
            with pytest.raises(PeerUnreachable, match="its certificate is refused"):
                await pair.ask()
    assert not pair.seen


@pytest.mark.parametrize("whose", ["asker", "asked"])
async def test_an_expired_certificate_is_refused(pair: Pair, log: list[Any], whose: str) -> None:
    fleet, before = pair.fleet, time.time() - 9 * DAY_S
    if whose == "asker":
        await refused(pair, a_node(fleet, "one", before, days=3))
        assert "expired" in (await logged(log, "handshake"))["event"]
        return
    bound = listener()
    with bound:
        pair.of_one.addresses["two"] = f"127.0.0.1:{bound.getsockname()[1]}"
        old = a_node(fleet, "two", before, days=3)
        async with open_peer_server(old, Directory(), pair.handle, bound, keys=None):
            with pytest.raises(PeerUnreachable, match=r"certificate is refused: .*expired"):
                await pair.ask()
    assert not pair.seen


async def test_a_node_is_not_taken_for_another_one(pair: Pair) -> None:
    """The directory has the address of another node of the same fleet."""
    with pytest.raises(PeerUnreachable, match=r"its certificate is refused: .*three"):
        await ask_as(pair, pair.first, "three")
    assert not pair.seen


async def test_a_node_cannot_make_certificates(pair: Pair) -> None:
    """Someone who has a node's file uses the node's key to sign a certificate for another name."""
    above = Credential(pair.first.certificate, pair.first.key)
    forged = make_node_certificate(above, "three", time.time(), 9)
    chain = forged.certificate + pair.first.certificate
    await refused(pair, replace(pair.first, name="three", certificate=chain, key=forged.key))
    good = make_node_certificate(
        Credential(pair.fleet.ca_certificate, pair.fleet.ca_key), "three", time.time(), 9
    )
    own = replace(pair.first, name="three", certificate=good.certificate, key=good.key)
    assert (await ask_as(pair, own))[0] == 200


async def test_an_older_tls_is_refused(pair: Pair, log: list[Any]) -> None:
    context = client_context(pair.first)
    for version, is_let_in in ((ssl.TLSVersion.TLSv1_2, False), (ssl.TLSVersion.TLSv1_3, True)):
        context.minimum_version = ssl.TLSVersion.TLSv1_2
        context.maximum_version = version
        try:
            _, writer = await asyncio.open_connection(
                "127.0.0.1", pair.port, ssl=context, server_hostname="two"
            )
        except OSError:
            assert not is_let_in
        else:
            assert is_let_in
            writer.transport.abort()
    assert "PROTOCOL" in (await logged(log, "handshake"))["event"].upper()


def test_a_certificate_with_more_names_than_one_names_no_node() -> None:
    assert node_of({"subjectAltName": (("DNS", "one"),)}) == "one"
    assert node_of({"subjectAltName": (("DNS", "one"), ("DNS", "two"))}) is None
    assert node_of({}) is None
    assert node_of(None) is None


# Removed nodes -------------------------------------------------------------------------------


async def test_a_removed_node_is_told_so_and_asks_nothing(pair: Pair, log: list[Any]) -> None:
    pair.of_two.refusals["one"] = "it was removed from the fleet"
    with pytest.raises(PeerUnreachable, match="node one: it was removed from the fleet"):
        await pair.ask()
    assert not pair.seen
    assert (await logged(log, "removed"))["kind"] == "node"
    del pair.of_two.refusals["one"]
    await asyncio.sleep(0.6)  # until node two reads the refusals again
    assert (await pair.ask())[0] == 200


async def test_a_node_that_is_removed_while_it_is_connected_asks_nothing_more(pair: Pair) -> None:
    assert (await pair.ask())[0] == 200
    pair.of_two.refusals["one"] = "it was removed from the fleet"
    pair.seen.clear()
    with pytest.raises(PeerUnreachable, match="let this one in: node one: it was removed"):
        await pair.ask()
    assert not pair.seen
    await until(lambda: not len(pair.server.connections))


@promise("N77")
async def test_a_node_that_is_removed_loses_what_it_still_reads(
    pair: Pair, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(peer_server, "LOOK_EVERY_S", 0.05)

    async def handle(*_: object) -> Response:
        async def lines() -> AsyncIterator[bytes]:
            while True:
                yield b"a line\n"
                await asyncio.sleep(0.01)

        return Response(body=lines())

    pair.handler = handle
    async with pair.request() as answer:
        assert await anext(answer.body) == b"a line\n"
        await asyncio.sleep(0.3)
        pair.of_two.refusals["one"] = "it was removed from the fleet"
        with pytest.raises(PeerGone):
            await asyncio.wait_for(answer.read(1_000_000), scaled(5))


async def test_a_removed_node_is_not_asked(pair: Pair) -> None:
    assert (await pair.ask())[0] == 200
    pair.of_one.refusals["two"] = "it was removed from the fleet"
    with pytest.raises(PeerUnreachable, match="is not asked: it was removed"):
        await pair.ask()
    assert len(pair.seen) == 1


# Signatures of requests ----------------------------------------------------------------------


class Raw:
    """A connection of someone who has a node's file and sends arbitrary bytes."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader, self.writer = reader, writer

    async def get(self, target: str, signature: str | None = None) -> tuple[int, dict[str, str]]:
        signed = "" if signature is None else f"{HEADER}: {signature}\r\n"
        self.writer.write(f"GET {target} HTTP/1.1\r\nhost: two\r\n{signed}\r\n".encode())
        async with asyncio.timeout(scaled(5)):
            head = (await self.reader.readuntil(b"\r\n\r\n")).decode()
        first, *lines = head.splitlines()
        headers = {name: value for name, _, value in (one.partition(": ") for one in lines)}
        await self.reader.readexactly(int(headers.get("content-length", "0")))
        return int(first.split()[1]), headers


@contextlib.asynccontextmanager
async def raw(pair: Pair) -> AsyncIterator[tuple[Raw, str]]:
    """Yields a connection, and the nonce that the server sent on it."""
    reader, writer = await asyncio.open_connection(
        "127.0.0.1", pair.port, ssl=client_context(pair.first), server_hostname="two"
    )
    try:
        connection = Raw(reader, writer)
        status, headers = await connection.get(HELLO)
        assert status == 204
        yield connection, headers[NONCE_HEADER]
    finally:
        writer.transport.abort()


def side(pair: Pair, **changes: Any) -> Side:
    own = Side(key=pair.first.secret, fleet_id=pair.first.fleet_id, asker="one", asked="two")
    return replace(own, **changes)


async def test_a_signed_request_is_answered(pair: Pair) -> None:
    """Control of the following tests: a request with a valid signature is accepted."""
    async with raw(pair) as (connection, nonce):
        signer = Signer(side(pair), nonce)
        for target in ("/a", "/b"):
            assert (await connection.get(target, signer.sign("GET", target, CALL)))[0] == 200
    assert [asker.call for _, asker in pair.seen] == [CALL, CALL]


@promise("N5")
@pytest.mark.parametrize(
    "forged",
    ["none", "garbage", "key", "asker", "fleet", "target", "call", "connection", "number"],
)
async def test_unsigned_requests_are_refused(pair: Pair, log: list[Any], forged: str) -> None:
    admin = replace(CALL, caller=replace(CALLER, tenant_id="other"))
    async with raw(pair) as (connection, nonce), raw(pair) as (_, other_nonce):
        changes: dict[str, dict[str, Any]] = {
            "key": {"key": b"x" * 32},
            "asker": {"asker": "three"},
            "fleet": {"fleet_id": "f" * 32},
        }
        own = side(pair, **changes.get(forged, {}))
        signer = Signer(own, other_nonce if forged == "connection" else nonce)
        if forged == "number":
            signer.sign("GET", "/a", CALL)
        value: str | None = signer.sign("GET", "/b" if forged == "target" else "/a", CALL)
        if forged == "call":
            told_admin = Signer(side(pair), nonce).sign("GET", "/a", admin).split(".")[1]
            number, _, signature = str(value).split(".")
            value = f"{number}.{told_admin}.{signature}"
        value = {"none": None, "garbage": "1.e30.00"}.get(forged, value)
        status, headers = await connection.get("/a", value)
        assert (status, headers["connection"]) == (403, "close")
        assert await connection.reader.read() == b"", "it has ended"
    assert not pair.seen
    assert (await logged(log, "identity"))["kind"] == "identity"


# Bytes that are not a request ----------------------------------------------------------------

GARBAGE = [
    b"GET / HTTP/1.1\r\nhost: two\r\n\r\n",
    bytes(range(256)) * 300,
    b"\x16\x03\x01\xff\xff" + b"\0" * 70_000,
    b"\0",
    b"",
]


async def test_garbage_is_refused_briefly_and_harms_nobody(pair: Pair, log: list[Any]) -> None:
    for _ in range(6):
        for garbage in GARBAGE:
            reader, writer = await asyncio.open_connection("127.0.0.1", pair.port)
            with contextlib.suppress(OSError):
                writer.write(garbage)
                writer.write_eof()
                async with asyncio.timeout(scaled(5)):
                    while await reader.read(65536):
                        pass
            writer.transport.abort()
        assert (await pair.ask())[0] == 200
    lines = [one for one in log if "refused on the peer port" in one["event"]]
    assert 1 <= len(lines) <= 2, "of 30, within ten seconds"
    assert len(pair.seen) == 6


@pytest.mark.parametrize("garbage", GARBAGE[:3])
async def test_garbage_of_a_node_ends_its_connection_alone(pair: Pair, garbage: bytes) -> None:
    async with raw(pair) as (connection, _):
        with contextlib.suppress(OSError):
            connection.writer.write(garbage)
            async with asyncio.timeout(scaled(5)):
                assert b"HTTP/1.1 20" not in await connection.reader.read()
    assert not pair.seen
    assert (await pair.ask())[0] == 200
