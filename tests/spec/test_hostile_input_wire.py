"""Hostile bytes on a socket: smuggled requests, sizes, slow senders, credentials, strange paths."""

import contextlib
import gzip
import json
import shutil
import statistics
import subprocess
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from e2e.server import Server, watched
from promises import promise
from spec.api_client import (
    Api,
    Wire,
    files_below,
    forget_peak,
    is_error,
    new_address,
    new_name,
    of,
    peak_kib,
    raw,
    request,
    rss_kib,
    statuses,
)
from spec.conftest import Keyed
from spec.smuggling import FUNCTIONS, JSON, ONE_REQUEST, PHANTOM, REFUSED, create, post
from timeouts import full_wait, scaled

pytestmark = [pytest.mark.sandbox, pytest.mark.one_server("it measures one server")]
MIB = 1024 * 1024

# Smuggling -----------------------------------------------------------------------------------

STATUSES = {400, 414, 431, 501, 505}


@pytest.fixture
def count(anybody: Api) -> Callable[[], int]:
    """Counts functions: a hidden request that was executed would have created one."""
    assert anybody.count() == 0
    return anybody.count


def received(server: Server, vectors: Mapping[str, bytes]) -> dict[str, bytes]:
    """Sends eight vectors at a time, since the server waits for the rest of some; returns the
    response to each.
    """

    def ask(vector: bytes) -> bytes:
        wire = Wire(server.url)
        answer = wire.send(vector).receive(full_wait(3))
        wire.close()
        return answer

    with ThreadPoolExecutor(8) as threads:
        return dict(zip(vectors, threads.map(ask, vectors.values()), strict=True))


@promise("A3")
def test_an_ambiguous_request_is_refused_and_nothing_behind_it_is_read(
    open_server: Server, count: Callable[[], int]
) -> None:
    found = {name: statuses(answer) for name, answer in received(open_server, REFUSED).items()}
    assert count() == 0, found
    wrong = {
        name: codes
        for name, codes in found.items()
        if len(codes) > 1 or not STATUSES.issuperset(codes)
    }
    assert not wrong


def test_a_connection_is_closed_after_a_refusal(open_server: Server) -> None:
    wire = Wire(open_server.url)
    answer = wire.send(REFUSED["two lengths that differ"]).receive()
    assert statuses(answer) == [400]
    wire.socket.settimeout(scaled(2))
    assert wire.socket.recv(10) == b""
    wire.close()


@promise("A14")
def test_no_body_is_a_request(open_server: Server, count: Callable[[], int]) -> None:
    found = {
        name: [one for one in statuses(answer) if one != 100]
        for name, answer in received(open_server, ONE_REQUEST).items()
    }
    assert count() == 0, found
    assert not {name: codes for name, codes in found.items() if len(codes) != 1}


@pytest.mark.skipif(shutil.which("curl") is None, reason="needs curl")
@pytest.mark.parametrize("version", ["--http1.1", "--http2"])
def test_an_http_2_offer_keeps_its_payload(open_server: Server, anybody: Api, version: str) -> None:
    function = of(anybody.active(handler="cat"))
    command = ["curl", "-sS", version, "-H", "Content-Type: application/json"]
    command += ["-d", '{"payload":"the payload"}', f"{open_server.url}{function}/invoke"]
    answer = subprocess.run(command, capture_output=True, check=True, timeout=scaled(30)).stdout
    assert "the payload" in json.loads(answer)["stdout"]


def test_the_probe_can_fail(open_server: Server, anybody: Api) -> None:
    """Negative control: the same request creates a function if it is not hidden."""
    both = post("Content-Length: 0", body=PHANTOM)
    assert statuses(raw(open_server.url, both)) == [415, 201] or anybody.count() == 1
    assert anybody.count() == 1


def test_an_absolute_address_is_the_same_route(open_server: Server) -> None:
    """Its host is ignored: as in any request, the Host header decides who may ask."""
    for path, status in ((FUNCTIONS, 200), ("/api/nothing", 404)):
        for address in (path, f"http://127.0.0.1{path}", f"http://evil.test{path}"):
            assert statuses(raw(open_server.url, request("GET", address))) == [status], address
    foreign = f"GET http://127.0.0.1{FUNCTIONS} HTTP/1.1\r\nHost: evil.test\r\n\r\n".encode()
    assert statuses(raw(open_server.url, foreign)) == [403]


def test_two_hosts_are_not_both_believed(open_server: Server) -> None:
    two = b"GET /api/functions HTTP/1.1\r\nHost: 127.0.0.1\r\nHost: evil.test\r\n\r\n"
    assert statuses(raw(open_server.url, two))[0] in (400, 403)


# Sizes -----------------------------------------------------------------------------------------


def padded(size: int) -> bytes:
    """The body of a create request with exactly this size."""
    plain = json.dumps({"name": new_name(), "handler": "echo"}).encode()
    return plain + b" " * (size - len(plain))


def test_a_body_at_the_limit_is_taken_and_a_byte_more_is_not(anybody: Api) -> None:
    headers = JSON
    answer = anybody("POST", FUNCTIONS, content=padded(MIB), headers=headers)
    assert answer.status_code == 201
    answer = anybody("POST", FUNCTIONS, content=padded(MIB + 1), headers=headers)
    assert " body_max_bytes " in is_error(answer, "PAYLOAD_TOO_LARGE", 413)["hint"]
    path = f"{of(anybody.active())}/invoke"
    for size, status in ((8 * MIB, 200), (8 * MIB + 1, 413)):
        body = b'{"payload":null}' + b" " * (size - 16)
        assert anybody("POST", path, content=body, headers=headers).status_code == status


@pytest.mark.parametrize("tail", [b"0\r\nx-a: ", b"2;a="], ids=["trailer", "extension"])
def test_a_line_without_an_end_behind_a_body_is_not_kept(open_server: Server, tail: bytes) -> None:
    forget_peak(open_server.pid)
    before = rss_kib(open_server.pid)
    head = request("POST", FUNCTIONS, JSON | {"Transfer-Encoding": "chunked"})
    wires = [Wire(open_server.url) for _ in range(4)]
    for wire in wires:
        wire.send(head + b"2\r\n{}\r\n" + tail)
    began, sent = time.monotonic(), 0
    for _ in range(64):
        sent_before = sent
        for wire in wires:
            with contextlib.suppress(OSError):
                wire.socket.sendall(b"x" * (256 * 1024))
                sent += 256 * 1024
        health = request("GET", "/health", {"Connection": "close"})
        assert statuses(raw(open_server.url, health)) == [200]
        if sent == sent_before:
            break  # the server has closed all connections
    took = time.monotonic() - began
    for wire in wires:
        wire.close()
    assert sent <= 16 * MIB  # not more than the kernel's buffers hold
    assert peak_kib(open_server.pid) - before < 8192
    print(f"{sent // 1024} KiB were sent in {took:.1f} s")


@promise("A4")
@pytest.mark.parametrize("path", [FUNCTIONS, f"{FUNCTIONS}/invoke/nobody"])
@pytest.mark.parametrize("way", ["length", "chunks"])
def test_100_megabytes_are_soon_refused_not_kept(open_server: Server, way: str, path: str) -> None:
    limit_kib = (MIB if path == FUNCTIONS else 8 * MIB) // 1024
    forget_peak(open_server.pid)
    before = rss_kib(open_server.pid)
    piece = b"x" * MIB
    framing = {"Content-Length": str(100 * MIB)} if way == "length" else {}
    framing = framing or {"Transfer-Encoding": "chunked"}
    began = time.monotonic()
    wire = Wire(open_server.url)
    sender = threading.Thread(target=_send_all, args=(wire, path, framing, piece))
    sender.start()
    answer = wire.receive(scaled(3))
    took = time.monotonic() - began
    wire.close()
    sender.join()
    assert statuses(answer) == [413]
    assert took < scaled(2)
    grown = peak_kib(open_server.pid) - before
    print(f"{way} {path}: grew by {grown} KiB")
    assert grown <= 2 * limit_kib + 4096


def _send_all(wire: Wire, path: str, framing: dict[str, str], piece: bytes) -> None:
    wire.send(request("POST", path, JSON | framing))
    is_chunked = "Transfer-Encoding" in framing
    for _ in range(100):
        wire.send(b"%x\r\n%s\r\n" % (len(piece), piece) if is_chunked else piece)


def keys(count: int, twin: bool) -> bytes:
    names = [b'"%x":0' % number for number in range(count)]
    return b"{" + b",".join([*names, *([b'"0":0'] if twin else [])]) + b"}"


@pytest.mark.parametrize("twin", [False, True])
def test_very_many_keys_are_refused_soon(anybody: Api, open_server: Server, twin: bool) -> None:
    forget_peak(open_server.pid)
    before = rss_kib(open_server.pid)
    path = f"{FUNCTIONS}/invoke/nobody"
    for where, count in ((FUNCTIONS, 95_000), (path, 700_000)):
        began = time.monotonic()
        answer = anybody("POST", where, content=keys(count, twin), headers=JSON)
        is_error(answer, "BAD_REQUEST", 400)
        assert time.monotonic() - began < scaled(2)
    grown = peak_kib(open_server.pid) - before
    print(f"grew by {grown} KiB")
    assert grown <= 2 * 8 * 1024 + 4096


def test_very_many_values_are_refused_soon(anybody: Api, open_server: Server) -> None:
    for piece in (b"[],", b"0,", b"0.1,", b"{},", b'"",', b'"\\\\",'):
        forget_peak(open_server.pid)
        before = rss_kib(open_server.pid)
        body = b"[" + piece * (8 * MIB // len(piece) - 2) + b"0]"
        began = time.monotonic()
        answer = anybody("POST", f"{FUNCTIONS}/invoke/nobody", content=body, headers=JSON)
        is_error(answer, "BAD_REQUEST", 400)
        assert time.monotonic() - began < scaled(2), piece
        assert peak_kib(open_server.pid) - before <= 3 * 8 * 1024 + 4096, piece


def test_a_long_payload_of_commas_and_quotes_is_one_value(anybody: Api) -> None:
    payload = '{"a":[1,2,"\\"]},' * 100_000
    record = anybody.invoke(anybody.active("wc -c"), payload)
    assert int(record["stdout"]) == len(payload)


def test_a_packed_body_is_not_unpacked(anybody: Api) -> None:
    bomb = gzip.compress(b" " * (100 * MIB), 9)
    for encoding in ("gzip", "deflate", "br", "identity, gzip"):
        began = time.monotonic()
        headers = JSON | {"Content-Encoding": encoding}
        answer = anybody("POST", FUNCTIONS, content=bomb, headers=headers)
        assert answer.status_code in (400, 413, 415), encoding
        assert time.monotonic() - began < scaled(2), encoding


def test_a_body_that_is_not_whole_makes_nothing(open_server: Server, anybody: Api) -> None:
    body = json.dumps({"name": new_name(), "handler": "echo"}).encode()
    cut = request("POST", FUNCTIONS, JSON | {"Content-Length": str(len(body) + 10)}, body)
    wire = Wire(open_server.url)
    wire.send(cut)
    wire.close()
    anybody.good("GET", "/health")
    assert anybody.count() == 0


def test_a_pipeline_is_answered_in_order(open_server: Server, anybody: Api) -> None:
    two = request("GET", "/health") + request("GET", "/nowhere") + create(new_name())
    assert statuses(raw(open_server.url, two)) == [200, 404, 201]
    assert anybody.count() == 1


@pytest.fixture(scope="module")
def impatient() -> Iterator[Server]:
    with watched("--head-timeout-s 1 --body-timeout-s 1") as server:
        yield server.start()


@promise("A4")
def test_a_head_or_a_body_that_never_ends_is_given_up(impatient: Server) -> None:
    head, body = Wire(impatient.url), Wire(impatient.url)
    began = time.monotonic()
    head.send(b"GET /health HTTP/1.1\r\nX: ")
    body.send(request("POST", FUNCTIONS, JSON | {"Content-Length": "100"}, b"{"))
    assert statuses(body.receive(scaled(3))) == [400]
    assert statuses(head.receive(scaled(3))) in ([], [408])
    assert time.monotonic() - began < scaled(4)
    for wire in (head, body):
        wire.close()


# Credentials -----------------------------------------------------------------------------------


def credentials(keyed: Keyed) -> dict[str, dict[str, bytes | str]]:
    key = keyed.key(new_name(), "read")["key"]
    return {
        "none": {},
        "empty key": {"X-Api-Key": ""},
        "empty bearer": {"Authorization": "Bearer"},
        "basic": {"Authorization": "Basic " + key},
        "bare": {"Authorization": key},
        "prefix": {"X-Api-Key": key[:-1]},
        "more": {"X-Api-Key": key + "x"},
        "other case": {"X-Api-Key": key.upper()},
        "its prefix alone": {"X-Api-Key": key[:21]},
        "same prefix, other secret": {"X-Api-Key": key[:22] + "x" * 43},
        "of another server": {"X-Api-Key": "quilt_sk_" + "a" * 12 + "_" + "x" * 43},
        "high bytes": {"X-Api-Key": "ä".encode("latin-1") * 50},
        "unicode": {"X-Api-Key": "ключ".encode()},
        "a wrong key and a right bearer": {"X-Api-Key": "x", "Authorization": f"Bearer {key}"},
    }


def test_a_wrong_credential_is_refused(keyed: Keyed) -> None:
    for name, headers in credentials(keyed).items():
        answer = Api(keyed.server.url, address=new_address())("GET", FUNCTIONS, headers=headers)
        is_error(answer, "UNAUTHORIZED", 401)
        assert answer.headers["www-authenticate"], name


def test_two_authorizations_and_a_key_with_nul_and_a_megabyte_token(keyed: Keyed) -> None:
    key = keyed.key(new_name(), "read")["key"]
    url = keyed.server.url
    lines = b"GET /api/functions HTTP/1.1\r\nHost: 127.0.0.1\r\n"
    two = lines + b"Authorization: Bearer x\r\nAuthorization: Bearer %s\r\n\r\n" % key.encode()
    assert statuses(raw(url, two)) == [401]
    assert statuses(raw(url, lines + b"X-Api-Key: %s\0\r\n\r\n" % key.encode())) == [400]
    huge = raw(url, lines + b"X-Api-Key: " + b"x" * MIB + b"\r\n\r\n")
    assert statuses(huge) in ([431], [])


def test_a_key_in_the_address_counts_for_nothing_and_is_not_logged(keyed: Keyed) -> None:
    key = keyed.key(new_name(), "read")["key"]
    for name in ("token", "api_key", "key", "X-Api-Key"):
        answer = Api(keyed.server.url)("GET", FUNCTIONS, params={name: key})
        is_error(answer, "UNAUTHORIZED", 401)
    assert key not in keyed.server.log.read_text()
    assert key.encode() not in files_below(keyed.server.data_dir)


@promise("A7")
def test_who_guesses_is_stopped_and_who_knows_is_not(keyed: Keyed) -> None:
    address = new_address()
    good = Api(keyed.server.url, keyed.key(new_name(), "read")["key"], address=address)
    codes: list[int] = []

    def guess(number: int) -> list[int]:
        text = f"quilt_sk_{number:012x}_" + "x" * 43
        wrong = Api(keyed.server.url, text, address=address)
        return [wrong("GET", FUNCTIONS).status_code for _ in range(60)]

    began = time.monotonic()
    with ThreadPoolExecutor(4) as threads:
        guessers = [threads.submit(guess, number) for number in range(4)]
        while not all(one.done() for one in guessers):
            codes.append(good("GET", FUNCTIONS).status_code)
    refused = [code for one in guessers for code in one.result()]
    print(f"{len(refused)} guesses in {time.monotonic() - began:.1f} s, {len(codes)} good calls")
    assert set(codes) == {200}
    assert refused.count(401) == 20
    assert set(refused) == {401, 429}


# Strange paths and methods without keys ----------------------------------------------------------

STRANGE = [
    ("TRACE", "/api/functions", 405),
    ("OPTIONS", "/api/functions", 204),
    ("PATCH", "/api/functions", 405),
    ("CONNECT", "127.0.0.1:80", None),
    ("GET", "//api/functions", 404),
    ("GET", "/api//functions", 404),
    ("GET", "/api/functions/", 404),
    ("GET", "/api/functions/..%2f", 404),
    ("GET", "/api/functions/%2e%2e/keys", 404),
    ("GET", "/api/functions/../keys", 404),
    ("GET", "/%61pi/functions/%00", 404),
    ("GET", "/api/functions/%ff%fe", 404),
    ("GET", "/api/functions?%zz", 422),
    ("GET", "/api/functions/;/help", 404),
    ("GET", "/API/functions", 404),
    ("DELETE", "/api/functions", 405),
    ("PUT", "/health", 405),
]


def test_a_strange_path_or_method_leads_nowhere(
    open_server: Server, count: Callable[[], int]
) -> None:
    for method, path, status in STRANGE:
        answer = raw(open_server.url, request(method, path, {"Connection": "close"}))
        found = statuses(answer)
        assert found == [status] if status else found[0] >= 400, (method, path)
        if status == 405:
            assert b"\r\nallow: " in answer
    assert count() == 0


def test_another_tenants_id_takes_no_more_and_no_less_time(keyed: Keyed) -> None:
    theirs = keyed.caller(new_name()).create()
    mine = keyed.caller(new_name())
    times: dict[str, list[float]] = {theirs: [], "0" * 36: []}
    client: Any = mine
    for _ in range(300):
        for function, found in times.items():
            began = time.perf_counter()
            client("GET", of(function))
            found.append(time.perf_counter() - began)
    medians = [statistics.median(found) for found in times.values()]
    assert abs(medians[0] - medians[1]) < 0.001
